"""What a policy does on recorded frames, against what was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.execution import two_ended
from vla_tune.extents import Extents
from vla_tune.schema import Contract, Observation, Policy

_CODES = 2.0
"""How far a decoded value may be off where nothing ever moved."""


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
    scale: float | None
    """Of the moving dimensions: 1 where the policy moves as far as was recorded, 2 where twice as far; None if nothing moved."""
    gripper: float | None
    """Correlation of the two-ended dimensions with the recorded ones, from -1 to 1, 0 where only those change; None if these never
    do."""
    side: float | None
    """Share of the two-ended values on the recorded side of the middle; None if there are none."""
    outside: float
    """Share of the values outside the range of the training data."""
    jump: float | None
    """Largest first action (less the state, where it is absolute), of the largest recorded; None where that cannot be said."""

    @property
    def finite(self) -> bool:
        """Whether all that it did is a number."""
        return bool(np.isfinite(self.chunks).all())


def apart(chunks: Float[np.ndarray, "N T A"], others: Float[np.ndarray, "N T A"], contract: Contract) -> float:
    """Mean absolute difference of two policies' chunks on the same frames, as a share of each dimension's range in the data."""
    return float((np.abs(chunks - others) / Extents.of(contract).span).mean())


def agreement(policy: Policy, recorded: Recorded, contract: Contract) -> Agreement:
    """Let `policy` act on every frame, one at a time.

    Raises:
        ValueError: its chunks have another length or width than the contract says.
    """
    chunks = np.stack([policy.act([observation])[0] for observation in recorded.seen])
    if chunks.shape != recorded.actions.shape:
        raise ValueError(f"the policy's chunks are {list(chunks.shape[1:])}, the contract says {list(recorded.actions.shape[1:])}.")
    extents, gripper = Extents.of(contract), two_ended(contract.embodiment)
    span, slack = extents.span, extents.slack(0.01, codes=_CODES)
    said, wanted = chunks[recorded.mask], recorded.actions[recorded.mask]
    return Agreement(
        chunks=chunks,
        error=float((np.abs(said - wanted) / span).mean()),
        scale=_scale(said[:, ~gripper] / span[~gripper], wanted[:, ~gripper] / span[~gripper]),
        gripper=_correlation(said[:, gripper], wanted[:, gripper]),
        side=_same_side(said[:, gripper], wanted[:, gripper], contract),
        outside=float(((said < extents.low - slack) | (said > extents.high + slack)).mean()),
        jump=_jump(chunks, recorded, contract, extents),
    )


def _scale(said: Float[np.ndarray, "M a"], wanted: Float[np.ndarray, "M a"]) -> float | None:
    """Ratio of the root mean squares about the recorded means, which noise and lag change little."""
    spread = np.sqrt(((wanted - wanted.mean(axis=0)) ** 2).mean()) if wanted.size else 0.0
    return float(np.sqrt(((said - said.mean(axis=0)) ** 2).mean()) / spread) if spread else None


def _correlation(said: Float[np.ndarray, "M g"], wanted: Float[np.ndarray, "M g"]) -> float | None:
    changing = wanted.std(axis=0) > 0
    if not changing.any():
        return None
    pairs = zip(said[:, changing].T, wanted[:, changing].T, strict=True)
    return float(np.mean([np.corrcoef(one, other)[0, 1] if one.std() > 0 else 0.0 for one, other in pairs]))


def _same_side(said: Float[np.ndarray, "M g"], wanted: Float[np.ndarray, "M g"], contract: Contract) -> float | None:
    ends = [(group.gripper, group.dimension) for group in contract.embodiment.action if group.gripper is not None]
    if not ends:
        return None
    middle = np.array([(gripper.engaged + gripper.released) / 2 for gripper, dimension in ends for _ in range(dimension)])
    return float(((said > middle) == (wanted > middle)).mean())


def _jump(chunks: Float[np.ndarray, "N T A"], recorded: Recorded, contract: Contract, extents: Extents) -> float | None:
    """In robot units, dimension by dimension; the state stands for absolute actions where it has as many dimensions."""
    body = contract.embodiment
    absolute = np.array(
        [group.representation != "delta" and group.gripper is None for group in body.action for _ in range(group.dimension)]
    )
    states = np.stack([observation.state for observation in recorded.seen])
    begin = np.where(absolute, states, 0.0) if states.shape[1] == len(absolute) else np.zeros(len(absolute))
    moving = ~two_ended(body) & (absolute.any() <= (states.shape[1] == len(absolute)))
    if not moving.any():
        return None
    said, known = np.abs(chunks[:, 0] - begin).max(axis=0), np.abs(recorded.actions[:, 0] - begin).max(axis=0)
    most = np.maximum(known, _CODES * extents.code)
    moving &= most > 0  # what never moved is another probe's: nothing tells how far it may
    return float((said[moving] / most[moving]).max()) if moving.any() else None
