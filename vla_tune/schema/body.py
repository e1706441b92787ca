"""The robot as a policy sees it: cameras, and groups of dimensions with their meaning."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

Normalization = Literal["quantile", "min_max", "mean_std", "none"]
"""How numbers are scaled: from q01..q99 or from min..max to [-1, 1], to mean 0 and deviation 1, or not at all."""

UNITS = ("m", "cm", "mm", "m/s", "rad", "rad/s", "deg", "deg/s", "s", "N", "N*m", "A", "%", "1")
"""What a unit may be; `%` of a motor's range, `1` a pure number."""

_SAME_RATE = 1e-4
"""Relative: 30000/1001 is written as 29.97, and 30 is another rate."""


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """What the two ends of a gripper or suction dimension mean on this robot."""

    engaged: float
    """The value that closes the gripper or switches the suction on."""
    released: float
    """The value that opens it or switches it off."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some neighbouring dimensions of the state or the action that share a unit and a meaning."""

    name: str
    dimension: int
    unit: str
    """One of `UNITS`."""
    frame: str
    """The coordinate frame, e.g. `table` or `robot_base`; `none` where there is none."""
    representation: Literal["absolute", "delta", "relative_to_first"]
    rotation: Literal["none", "euler_xyz", "rotation_vector", "quaternion_xyzw", "rotation_6d"]
    normalization: Normalization
    """`none` where numbers lie in [-1, 1] by themselves, such as a gripper's."""
    gripper: Gripper | None
    names: tuple[str, ...] = ()
    """Of the dimensions, as the data set's column bears them; empty where nobody named them."""

    @property
    def normalized(self) -> bool:
        """Whether the statistics scale it."""
        return self.normalization != "none"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera: its role for the model and its key in the dataset and the environment."""

    role: str
    key: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """A robot as the policy sees it."""

    name: str
    cameras: tuple[Camera, ...]
    state_key: str
    state: tuple[Group, ...]
    action_key: str
    action: tuple[Group, ...]
    control_hz: float

    @cached_property
    def state_dimension(self) -> int:
        """S."""
        return sum(group.dimension for group in self.state)

    @cached_property
    def action_dimension(self) -> int:
        """A."""
        return sum(group.dimension for group in self.action)

    @cached_property
    def action_units(self) -> tuple[str, ...]:
        """The unit of each action dimension."""
        return tuple(group.unit for group in self.action for _ in range(group.dimension))


@dataclass(frozen=True)
class Observation:
    """What the robot sees at one tick."""

    images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
    """Camera role -> image."""
    state: Float[np.ndarray, " S"]
    """Robot units."""
    instruction: str


def dimension_names(groups: Iterable[Group]) -> list[str]:
    """A name for each dimension: that of the data set's column, else the group's with the place in it (`joints_0`)."""
    return [name for group in groups for name in group.names or _numbered(group)]


def placed(groups: Iterable[Group]) -> list[tuple[Group, slice]]:
    """The groups of a column, each with its part of it."""
    parts, begin = [], 0
    for group in groups:
        parts.append((group, slice(begin, begin + group.dimension)))
        begin += group.dimension
    return parts


def without_names(body: Embodiment) -> Embodiment:
    """The same robot, whose dimensions nobody named."""

    def bare(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(replace(group, names=()) for group in groups)

    return replace(body, state=bare(body.state), action=bare(body.action))


def same_rate(one: float, other: float) -> bool:
    """Whether two rates in Hz are one, written with different care."""
    return math.isclose(one, other, rel_tol=_SAME_RATE)


def _numbered(group: Group) -> list[str]:
    return [f"{group.name}_{axis}" for axis in range(group.dimension)] if group.dimension > 1 else [group.name]
