"""Held-out loss, token accuracy and action error in robot units."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from vla_tune.data.collate import Batch, collate
from vla_tune.heads.base import Head, HeadLoss

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
class Validation:
    """Held-out samples and how to judge the predictions on them."""

    samples: Samples
    _: KW_ONLY
    first_frames: Sequence[int] = ()
    """Positions in `samples` of each episode's first frame, where no motion so far gives the answer away."""
    inverse: Inverse = lambda actions, _: actions
    units: Sequence[str] = ()
    """Of each action dimension; the headline errors are means over the dimensions that share the first one (all, if unnamed)."""

    def measure(
        self,
        model: nn.Module,
        head: Head,
        *,
        batch_size: int,
        pad_id: int,
        device: torch.device,
        autocast: Callable[..., AbstractContextManager[Any]],
    ) -> dict[str, float]:
        """Loss, token accuracy, if there are codes, and mean absolute action errors in robot units: all, first frames, dimensions.

        Nothing, where no samples are held out.
        """
        if not len(self.samples):
            return {}
        losses, correct, errors = [], [], []
        model.eval()
        for start in range(0, len(self.samples), batch_size):
            rows = [self.samples[index] for index in range(start, min(start + batch_size, len(self.samples)))]
            batch = collate(rows, pad_id=pad_id).to(device)
            with torch.no_grad(), autocast():
                output = head.loss(model, batch)  # pyright: ignore[reportArgumentType]
                predicted = head.predict(model, batch)  # pyright: ignore[reportArgumentType]
            losses.append(output.per_label.float().cpu())
            correct += [] if output.correct is None else [output.correct.cpu()]
            errors += [self._error(actions, row) for actions, row in zip(predicted, rows, strict=True)]
        model.train()
        return {
            "validation/loss": torch.cat(losses).mean().item(),
            **({"validation/token_accuracy": torch.cat(correct).float().mean().item()} if correct else {}),
            **action_errors(errors, first_frames=self.first_frames, units=self.units),
        }

    def _error(self, predicted: Float[np.ndarray, "T A"], sample: Sample) -> Float[np.ndarray, "T A"]:
        """Absolute error in robot units; NaN where the chunk ran past its episode."""
        difference = np.abs(self.inverse(predicted, sample) - self.inverse(sample["actions"], sample))
        return np.where(_mask(sample), difference, np.nan)


def action_errors(
    errors: Sequence[Float[np.ndarray, "T A"]], *, first_frames: Sequence[int], units: Sequence[str]
) -> dict[str, float]:
    """Means of absolute errors that are NaN where nothing was to be predicted.

    `validation/first_frame_error` well above `validation/action_error` says that the policy continues motions instead of
    reading the instruction. Both are means over the dimensions whose unit is the first
    one's (metres on most robots); every dimension has its own mean besides.
    """
    stacked = np.stack(errors)
    by_dimension = np.nanmean(stacked, axis=(0, 1))
    named = {f"validation/action_error_{dimension}": float(value) for dimension, value in enumerate(by_dimension)}
    alike = [unit == units[0] for unit in units] or slice(None)
    result = {"validation/action_error": float(np.nanmean(stacked[..., alike]))} | named
    if len(first_frames):
        result["validation/first_frame_error"] = float(np.nanmean(stacked[list(first_frames)][..., alike]))
    return result


def _mask(sample: Mapping[str, Any]) -> Bool[np.ndarray, "T A"]:
    return sample["action_mask"]


def culprits(batch: Batch, loss: HeadLoss) -> list[tuple[int, int]]:
    """(episode, frame) of every sample with a loss that is not finite."""
    assert batch.index is not None
    bad = loss.rows[~loss.per_label.isfinite()].unique()
    return [(int(episode), int(frame)) for episode, frame in batch.index[bad].tolist()]
