"""Held-out loss, token accuracy and action error in robot units."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float

from vla_tune.data.collate import Batch
from vla_tune.models.base import Loss
from vla_tune.models.forward import Forward

Sample = dict[str, Any]
Inverse = Callable[[Float[np.ndarray, "T A"], Sample], Float[np.ndarray, "T A"]]
"""Normalised actions and the sample they belong to -> robot units."""


@runtime_checkable
class Samples(Protocol):
    """A map-style dataset of pipelined samples."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """One sample, ready for `collate`."""
        ...


@dataclass(frozen=True)
class EvenlySpaced:
    """At most `count` of many samples, from the first to the last (`Samples`)."""

    samples: Samples
    _: KW_ONLY
    count: int

    def __len__(self) -> int:
        """How many."""
        return min(self.count, len(self.samples))

    def __getitem__(self, index: int, /) -> Sample:
        """One of them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.samples[index * len(self.samples) // len(self)]


@dataclass(frozen=True)
class Chosen:
    """The samples at some `places` of many (`Samples`)."""

    samples: Samples
    places: Sequence[int]

    def __len__(self) -> int:
        """How many."""
        return len(self.places)

    def __getitem__(self, index: int, /) -> Sample:
        """One of them."""
        return self.samples[self.places[index]]


class ValidationStopped(Exception):  # noqa: N818 (nothing went wrong)
    """A validation was given up, because the run is to end."""


@dataclass(frozen=True)
class Validation:
    """Held-out samples and how to judge the predictions on them."""

    samples: Samples
    """On which the loss is measured."""
    _: KW_ONLY
    predicted: Samples = ()  # pyright: ignore[reportAssignmentType] (an empty tuple is one)
    """On which actions are predicted, which may cost many times a loss."""
    first_frames: Samples = ()  # pyright: ignore[reportAssignmentType]
    """Of episodes, where no motion so far gives the answer away; predicted too."""
    inverse: Inverse = lambda actions, _: actions
    units: Sequence[str] = ()
    """Of each action dimension; the headline errors are means over the dimensions that share the first one (all, if unnamed)."""

    def measure(
        self,
        forward: Forward,
        *,
        batch_size: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Loss, token accuracy, if there are codes, and mean absolute action errors in robot units: all, first frames, dimensions.

        Nothing, where no samples are held out.

        Raises:
            ValidationStopped: `stopped`, asked before each batch, said so.
        """
        if not len(self.samples):
            return {}
        parts = partial(_parts, size=batch_size, stopped=stopped)
        outputs = [output for part in parts(self.samples) for output in forward.losses(part)]
        errors, first = (
            [
                self._error(actions, sample)
                for part in parts(samples)
                for actions, sample in zip(forward.each(part), part, strict=True)
            ]
            for samples in (self.predicted, self.first_frames)
        )
        correct = [output.correct for output in outputs if output.correct is not None]
        return {
            "validation/loss": torch.cat([output.per_label for output in outputs]).float().mean().item(),
            **({"validation/token_accuracy": torch.cat(correct).float().mean().item()} if correct else {}),
            **action_errors(errors, first=first, units=self.units),
        }

    def _error(self, predicted: Float[np.ndarray, "T A"], sample: Sample) -> Float[np.ndarray, "T A"]:
        """Absolute error in robot units; NaN where the chunk ran past its episode."""
        difference = np.abs(self.inverse(predicted, sample) - self.inverse(sample["actions"], sample))
        return np.where(_mask(sample), difference, np.nan)


def held_out(
    samples: Samples, *, first_frames: Sequence[int] = (), frames: int, predicted: int, inverse: Inverse, units: Sequence[str]
) -> Validation:
    """A validation whose cost does not grow with the dataset: all of it is evenly spaced over `samples`.

    Args:
        samples: held out.
        first_frames: places in `samples` where an episode begins.
        frames: of the loss, at most.
        predicted: frames of the action error, at most, and first frames of theirs.
        inverse: as in `Validation`.
        units: as in `Validation`.
    """
    return Validation(
        EvenlySpaced(samples, count=frames),
        predicted=EvenlySpaced(samples, count=predicted),
        first_frames=EvenlySpaced(Chosen(samples, first_frames), count=predicted),
        inverse=inverse,
        units=units,
    )


def _parts(samples: Samples, *, size: int, stopped: Callable[[], bool]) -> Iterator[list[Sample]]:
    for start in range(0, len(samples), size):
        if stopped():
            raise ValidationStopped
        yield [samples[index] for index in range(start, min(start + size, len(samples)))]


def action_errors(
    errors: Sequence[Float[np.ndarray, "T A"]], *, first: Sequence[Float[np.ndarray, "T A"]] = (), units: Sequence[str]
) -> dict[str, float]:
    """Means of absolute errors that are NaN where nothing was to be predicted; `first` are those on first frames.

    `validation/first_frame_error` well above `validation/action_error` says that the policy continues motions instead of
    reading the instruction. Both are means over the dimensions whose unit is the first
    one's (metres on most robots); every dimension has its own mean besides.
    """
    alike = [unit == units[0] for unit in units] or slice(None)
    result: dict[str, float] = {}
    if errors:
        stacked = np.stack(errors)
        result["validation/action_error"] = float(np.nanmean(stacked[..., alike]))
        by_dimension = np.nanmean(stacked, axis=(0, 1))
        result |= {f"validation/action_error_{dimension}": float(value) for dimension, value in enumerate(by_dimension)}
    if first:
        result["validation/first_frame_error"] = float(np.nanmean(np.stack(first)[..., alike]))
    return result


def _mask(sample: Mapping[str, Any]) -> Bool[np.ndarray, "T A"]:
    return sample["action_mask"]


def culprits(batch: Batch, loss: Loss) -> list[tuple[int, int]]:
    """(episode, frame) of every sample with a loss that is not finite."""
    assert batch.index is not None
    bad = loss.rows[~loss.per_label.isfinite()].unique()
    return [(int(episode), int(frame)) for episode, frame in batch.index[bad].tolist()]
