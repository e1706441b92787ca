"""Open loop: what a policy would do on recorded frames, against what was done there; it needs no environment."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.data.recorded import observation_in
from vla_tune.data.transforms import Samples
from vla_tune.extents import Extents
from vla_tune.schema import Contract, Embodiment, Policy, placed

type Say = Callable[[str], str]
"""The recorded instruction -> the one that the policy is given."""


@dataclass(frozen=True, eq=False)
class Compared:
    """A policy's chunks beside the recorded ones, in robot units."""

    predicted: Float[np.ndarray, "N T A"]
    recorded: Float[np.ndarray, "N T A"]
    counts: Bool[np.ndarray, "N T"]
    """False behind the end of an episode."""

    @property
    def errors(self) -> Float[np.ndarray, "N T A"]:
        """Absolute differences; NaN behind the end of an episode."""
        return np.where(self.counts[..., None], np.abs(self.predicted - self.recorded), np.nan)


def compared(policy: Policy, samples: Samples, body: Embodiment, *, rows: int, say: Say = str) -> Compared:
    """Let a policy act on recorded frames, `rows` of them at a time, whose pictures alone are in memory.

    A policy whose chunks are shorter than the recorded ones is compared as far as they go.
    """
    predicted, recorded, counts = [], [], []
    for frames in _parts(samples, rows):
        seen = [observation_in(frame | {"instruction": say(frame["instruction"])}, body) for frame in frames]
        predicted.append(policy.act(seen))
        recorded.append(np.stack([frame["actions"] for frame in frames]))
        counts.append(np.stack([frame["action_mask"].all(axis=-1) for frame in frames]))
    chunks, wanted = np.concatenate(predicted), np.concatenate(recorded)
    length = min(chunks.shape[1], wanted.shape[1])
    return Compared(chunks[:, :length], wanted[:, :length], np.concatenate(counts)[:, :length])


def other_sentences(sentences: Sequence[str]) -> dict[str, str]:
    """For each of several sentences another one: the next in order; nothing where there is only one."""
    known = sorted(set(sentences))
    return dict(zip(known, [*known[1:], known[0]], strict=True)) if len(known) > 1 else {}


def open_loop_row(found: Compared, contract: Contract, *, policy: str) -> dict[str, Any]:
    """Mean errors as JSON data: as shares of each dimension's range in the training data, and per group in robot units.

    Args:
        found: what was compared.
        contract: of the run, whose data's range it is.
        policy: what it is called.
    """
    errors, groups = found.errors, {}
    shares = errors / Extents.of(contract).span
    for group, place in placed(contract.embodiment.action):
        part = errors[..., place]
        means = {"error": float(np.nanmean(part)), "by_step": _by_step(part)}
        groups[group.name] = {"unit": group.unit} | means | {"by_dimension": np.nanmean(part, axis=(0, 1)).tolist()}
    means = {"error": float(np.nanmean(shares)), "by_step": _by_step(shares)}
    return {"policy": policy, "frames": len(errors)} | means | {"groups": groups}


def _by_step(errors: Float[np.ndarray, "N T a"]) -> list[float | None]:
    """Means for each step of the chunk; None where every recorded chunk was over."""
    steps = [errors[:, step] for step in range(errors.shape[1])]
    return [None if np.isnan(step).all() else float(np.nanmean(step)) for step in steps]


def _parts(samples: Samples, rows: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(samples), rows):
        yield [samples[place] for place in range(start, min(start + rows, len(samples)))]
