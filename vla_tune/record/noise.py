"""What disturbs an expert: executed, never recorded (DART, arXiv 1703.09327), so that the data show how to come back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from vla_tune.schema import Embodiment

Disturbance = Callable[[Float32[np.ndarray, " A"], int], Float[np.ndarray, " A"]]
"""An expert's action and the number of the step -> what is executed instead."""


@runtime_checkable
class Disturbing(Protocol):
    """Noise on what is executed; a frozen dataclass, whose fields are part of a recording's recipe."""

    def begin(self, body: Embodiment, rng: np.random.Generator) -> Disturbance:
        """The noise of one episode, all of it drawn from `rng`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise in metres: on all steps of some episodes, and bursts of random motion in some."""

    deviation_m: float = 0.006
    """Standard deviation on every translation axis."""
    share: float = 0.5
    """Share of the episodes that have it."""
    burst: float = 0.6
    """Probability that an episode has bursts: one or two, each of 2 to 4 steps in one random direction."""
    burst_m: float = 0.03
    """Largest motion of a burst per axis and step."""
    burst_before: int = 22
    """Bursts begin before this step."""

    def begin(self, body: Embodiment, rng: np.random.Generator) -> Disturbance:
        """On the action dimensions that are lengths."""
        units = [group.unit for group in body.action for _ in range(group.dimension)]
        axes = [index for index, unit in enumerate(units) if unit == "m"]
        deviation = self.deviation_m * (rng.random() < self.share)
        motions: dict[int, Float[np.ndarray, " d"]] = {}
        for _ in range(rng.integers(1, 3) if rng.random() < self.burst else 0):
            start, length = int(rng.integers(self.burst_before)), int(rng.integers(2, 5))
            motion = rng.uniform(-self.burst_m, self.burst_m, len(axes))
            motions |= dict.fromkeys(range(start, start + length), motion)

        def executed(action: Float32[np.ndarray, " A"], step: int) -> Float[np.ndarray, " A"]:
            moved = action.astype(np.float64)
            moved[axes] = motions[step] if step in motions else moved[axes] + rng.normal(0.0, deviation, len(axes))
            return moved

        return executed


STILL = Noise(share=0.0, burst=0.0)
"""No noise."""


@dataclass(frozen=True, kw_only=True)
class NoiseByLevel:
    """Gaussian noise in the action's own numbers, of one level through an episode; never on a gripper.

    Raises:
        ValueError: there is no level, one is negative, or the range is empty.
    """

    levels: Sequence[float] = (0.0, 0.1, 0.2, 0.3)
    """Standard deviations on a translation, of which each episode has one, all equally likely."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Group of the action -> its share of the level, where it is not all of it."""
    low: float = -1.0
    """What is executed is cut off there, and at `high`, but on a gripper."""
    high: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.levels) or min(self.levels) < 0 or not self.low < self.high:
            raise ValueError(f"levels={list(self.levels)} in {self.low} to {self.high}: name levels of at least 0, and a range.")

    def begin(self, body: Embodiment, rng: np.random.Generator) -> Disturbance:
        """On every group of the action by its share, and not at all where it is a gripper.

        Raises:
            ValueError: a share is of a group that the robot has not.
        """
        groups = [group for group in body.action for _ in range(group.dimension)]
        if unknown := sorted(self.shares.keys() - {group.name for group in groups}):
            raise ValueError(
                f"shares: {body.name} has no {unknown[0]!r} in its action: {', '.join(group.name for group in body.action)}."
            )
        moved = np.array([group.gripper is None for group in groups])
        weights = np.array([self.shares.get(group.name, 1.0) for group in groups]) * moved
        level = float(rng.choice(np.asarray(self.levels, np.float64)))

        def executed(action: Float32[np.ndarray, " A"], step: int) -> Float[np.ndarray, " A"]:
            noisy = action + level * weights * rng.normal(size=len(groups))
            return np.where(moved, np.clip(noisy, self.low, self.high), action)

        return executed
