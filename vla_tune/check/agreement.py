"""What a policy does on recorded frames, against what was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.execution import two_ended
from vla_tune.policy import Policy
from vla_tune.schema import ColumnStatistics, Contract, Observation


@dataclass(frozen=True)
class Recorded:
    """Frames with the actions that followed."""

    seen: Sequence[Observation]
    actions: Float[np.ndarray, "N T A"]
    """Robot units."""
    mask: Bool[np.ndarray, "N T"]
    """False behind the end of an episode."""


@dataclass(frozen=True)
class Agreement:
    """A policy's chunks against the recorded ones."""

    chunks: Float[np.ndarray, "N T A"]
    """What it did, robot units."""
    error: float
    """Mean absolute difference, as a share of each dimension's range in the training data."""
    scale: float
    """Of the moving dimensions: 1 where the policy moves as far as was recorded, 2 where twice as far; NaN if nothing moved."""
    gripper: float
    """Correlation of the two-ended dimensions with the recorded ones, from -1 to 1; NaN if they never changed."""
    outside: float
    """Share of the values outside the range of the training data."""
    jump: float
    """Largest first action (less the state, where it is absolute), of the largest recorded."""


def apart(chunks: Float[np.ndarray, "N T A"], others: Float[np.ndarray, "N T A"], contract: Contract) -> float:
    """Mean absolute difference of two policies' chunks on the same frames, as a share of each dimension's range in the data."""
    column = contract.statistics.action
    return float((np.abs(chunks - others) / _span(column)).mean())


def agreement(policy: Policy, recorded: Recorded, contract: Contract) -> Agreement:
    """Let `policy` act on every frame, one at a time.

    Raises:
        ValueError: its chunks have another length or width than the contract says.
    """
    chunks = np.stack([policy.act([observation])[0] for observation in recorded.seen])
    if chunks.shape != recorded.actions.shape:
        raise ValueError(f"the policy's chunks are {list(chunks.shape[1:])}, the contract says {list(recorded.actions.shape[1:])}.")
    column, gripper = contract.statistics.action, two_ended(contract.embodiment)
    low, high, span = np.array(column.min), np.array(column.max), _span(column)
    said, wanted = chunks[recorded.mask], recorded.actions[recorded.mask]
    return Agreement(
        chunks=chunks,
        error=float((np.abs(said - wanted) / span).mean()),
        scale=_scale(said[:, ~gripper] / span[~gripper], wanted[:, ~gripper] / span[~gripper]),
        gripper=_correlation(said[:, gripper], wanted[:, gripper]),
        outside=float(((said < low - 0.01 * span) | (said > high + 0.01 * span)).mean()),
        jump=_jump(chunks, recorded, contract),
    )


def _span(column: ColumnStatistics) -> Float[np.ndarray, " A"]:
    """From the smallest to the largest value; 1 where nothing moves."""
    low, high = np.array(column.min), np.array(column.max)
    return np.where(high > low, high - low, 1.0)


def _scale(said: Float[np.ndarray, "M a"], wanted: Float[np.ndarray, "M a"]) -> float:
    """Ratio of the root mean squares about the recorded means, which noise and lag change little."""
    spread = np.sqrt(((wanted - wanted.mean(axis=0)) ** 2).mean()) if wanted.size else 0.0
    return float(np.sqrt(((said - said.mean(axis=0)) ** 2).mean()) / spread) if spread else float("nan")


def _correlation(said: Float[np.ndarray, "M g"], wanted: Float[np.ndarray, "M g"]) -> float:
    changing = (said.std(axis=0) > 0) & (wanted.std(axis=0) > 0)
    if not changing.any():
        return float("nan")
    pairs = zip(said[:, changing].T, wanted[:, changing].T, strict=True)
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs]))


def _jump(chunks: Float[np.ndarray, "N T A"], recorded: Recorded, contract: Contract) -> float:
    """In robot units, dimension by dimension; the state stands for absolute actions where it has as many dimensions."""
    body = contract.embodiment
    absolute = np.array(
        [group.representation != "delta" and group.gripper is None for group in body.action for _ in range(group.dimension)]
    )
    states = np.stack([observation.state for observation in recorded.seen])
    begin = np.where(absolute, states, 0.0) if states.shape[1] == len(absolute) else np.zeros(len(absolute))
    moving = ~two_ended(body) & (absolute.any() <= (states.shape[1] == len(absolute)))
    if not moving.any():
        return float("nan")
    said, known = np.abs(chunks[:, 0] - begin)[:, moving], np.abs(recorded.actions[:, 0] - begin)[:, moving]
    largest = known.max(axis=0)
    return float((said.max(axis=0) / np.where(largest > 0, largest, np.inf)).max())
