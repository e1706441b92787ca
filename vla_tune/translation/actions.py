"""How an action of the robot leaves: which of its numbers make the environment's, in which order, unit, sign and convention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Box, Space
from jaxtyping import Float

from vla_tune.schema import Gripper as Ends
from vla_tune.translation.paths import places

_HALF = 0.5


@runtime_checkable
class ActionTo(Protocol):
    """Turns actions of the robot into those of an environment."""

    dimension: int
    """A, of the robot's actions."""

    def __call__(self, action: Float[np.ndarray, " A"], space: Space) -> np.ndarray:
        """An action in `space`."""
        ...


@runtime_checkable
class Part(Protocol):
    """Some numbers of an environment's action."""

    def uses(self, dimension: int) -> list[int]:
        """Which of the `dimension` numbers of the robot's action it reads."""
        ...

    def __call__(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " n"]:
        """The numbers of the environment's action."""
        ...


@runtime_checkable
class Beyond(Protocol):
    """What becomes of an action that lies beyond the environment's space."""

    def __call__(self, action: Float[np.ndarray, " E"], space: Box) -> Float[np.ndarray, " E"]:
        """The action that is taken."""
        ...


@dataclass(frozen=True, kw_only=True)
class Action:
    """The parts of an environment's action, one after the other."""

    dimension: int
    parts: Sequence[Part]
    beyond: Beyond

    def __post_init__(self) -> None:
        used = [place for part in self.parts for place in part.uses(self.dimension)]
        if idle := sorted(set(range(self.dimension)) - set(used)):
            raise ValueError(
                f"no part of the action uses the robot's numbers {idle} of {self.dimension}: name them in `of:`, or leave them out "
                "aloud (vla_tune.translation.LeftOut)."
            )

    def __call__(self, action: Float[np.ndarray, " A"], space: Space) -> np.ndarray:
        """An action in `space`.

        Raises:
            ValueError: the environment takes another kind or number of actions.
        """
        if not isinstance(space, Box):
            raise ValueError(f"the environment takes {space}, and not numbers (Box): give `action` an object of your own for it.")
        leaving = np.concatenate([np.zeros(0), *[part(action) for part in self.parts]])
        if leaving.shape != space.shape:
            raise ValueError(
                f"the environment takes actions of shape {list(space.shape)}, `action.parts` make {leaving.size} numbers."
            )
        return self.beyond(leaving, space).astype(space.dtype)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The robot's numbers `of`, times `scale` (with its sign), plus `offset`."""

    of: Sequence[int] | str | int
    scale: float | Sequence[float] = 1.0
    offset: float | Sequence[float] = 0.0

    def uses(self, dimension: int) -> list[int]:
        """Those of `of`."""
        chosen = places(self.of, dimension, where="the robot's action")
        for name, values in {"scale": self.scale, "offset": self.offset}.items():
            if np.ndim(values) and np.shape(values) != (len(chosen),):
                raise ValueError(f"{name} has {np.size(values)} numbers for {len(chosen)} of the robot's action.")
        return chosen

    def __call__(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " n"]:
        """In the environment's unit."""
        return action[self.uses(len(action))].astype(np.float64) * np.asarray(self.scale) + np.asarray(self.offset)


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """The gripper, from the robot's two ends to the environment's, and as far between them."""

    of: int
    robot: Mapping[str, float]
    """`{engaged: 1.0, released: 0.0}`: as the robot's data have it."""
    environment: Mapping[str, float]
    """The same two of the environment."""

    def uses(self, dimension: int) -> list[int]:
        """That one."""
        return _place(self.of, self.robot, self.environment, dimension)

    def __call__(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, "1"]:
        """In the environment's convention."""
        ends, share = _ends(self.environment, "environment"), _closed(float(action[self.of]), _ends(self.robot, "robot"))
        return np.array([ends.released + share * (ends.engaged - ends.released)], np.float64)


@dataclass(frozen=True, kw_only=True)
class GripperSwitch:
    """The gripper, as the end of the environment's that is nearer: closed from half-way on."""

    of: int
    robot: Mapping[str, float]
    environment: Mapping[str, float]

    def uses(self, dimension: int) -> list[int]:
        """That one."""
        return _place(self.of, self.robot, self.environment, dimension)

    def __call__(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, "1"]:
        """One of two numbers."""
        ends, closed = _ends(self.environment, "environment"), _closed(float(action[self.of]), _ends(self.robot, "robot")) >= _HALF
        return np.array([ends.engaged if closed else ends.released], np.float64)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Numbers of the environment's action that the robot does not have."""

    values: Sequence[float]

    def uses(self, dimension: int) -> list[int]:
        """None."""
        return []

    def __call__(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " n"]:
        """Always the same."""
        return np.asarray(self.values, np.float64)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Numbers of the robot's action that the environment does not have."""

    of: Sequence[int] | str | int

    def uses(self, dimension: int) -> list[int]:
        """Those of `of`."""
        return places(self.of, dimension, where="the robot's action")

    def __call__(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, "0"]:
        """Nothing."""
        return np.zeros(0)


@dataclass(frozen=True)
class Clip:
    """The nearest action in the space is taken."""

    def __call__(self, action: Float[np.ndarray, " E"], space: Box) -> Float[np.ndarray, " E"]:
        """Each number in its limits."""
        return np.clip(action, space.low, space.high)


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """It ends the run, beyond `tolerance` times the range, within which it is clipped: rounding is no mistake."""

    tolerance: float = 1e-4

    def __call__(self, action: Float[np.ndarray, " E"], space: Box) -> Float[np.ndarray, " E"]:
        """The action.

        Raises:
            ValueError: a number lies beyond its limits.
        """
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        slack = self.tolerance * np.where(np.isfinite(high - low), high - low, 1.0)
        for place in np.flatnonzero((action < low - slack) | (action > high + slack)):
            raise ValueError(
                f"number {place} of the environment's action is {action[place]:g}, it takes {low[place]:g} to {high[place]:g}: "
                "correct its scale, or say beyond: {_target_: vla_tune.translation.Clip}."
            )
        return np.clip(action, low, high)


def _place(of: int, robot: Mapping[str, float], environment: Mapping[str, float], dimension: int) -> list[int]:
    """Where the gripper is, with its ends looked at."""
    _ends(robot, "robot")
    _ends(environment, "environment")
    return places(of, dimension, where="the robot's action")


def _ends(said: Mapping[str, float], whose: str) -> Ends:
    if set(said) != {"engaged", "released"} or said["engaged"] == said["released"]:
        raise ValueError(f"{whose}={dict(said)}: say two numbers that differ, engaged (closed) and released (open).")
    return Ends(engaged=said["engaged"], released=said["released"])


def _closed(value: float, robot: Ends) -> float:
    """0 at released, 1 at engaged."""
    return (value - robot.released) / (robot.engaged - robot.released)
