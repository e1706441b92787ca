"""Actions as a policy means them <-> absolute set-points, on which limits can act."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.execution import two_ended
from vla_tune.schema import Embodiment, Group


@runtime_checkable
class Origin(Protocol):
    """Where the robot begins to count a delta."""

    def of(self, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """The set-point to which a delta is added."""
        ...


@dataclass(frozen=True)
class FromCommanded:
    """A delta changes the last command: what gravity and friction hold back does not add up."""

    def of(self, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """The last command."""
        return commanded


@dataclass(frozen=True)
class FromMeasured:
    """A delta is added to the measured position, as some controllers do (and the built-in tabletop)."""

    def of(self, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """What is measured."""
        return measured


@dataclass(frozen=True)
class SetPoints:
    """Between the actions of an embodiment and absolute set-points.

    The set-point of a rotation in small turns is their sum: its rate is the angular velocity, and it says nothing about a pose.

    Args:
        embodiment: What the action means.
        state_of: Action group -> the state group that measures it; every group needs one, except small turns.
        origin: Where deltas begin.

    Raises:
        ValueError: a group is not measured, or by a group of another size or unit.
    """

    embodiment: Embodiment
    state_of: Mapping[str, str]
    origin: Origin

    def __post_init__(self) -> None:
        known = {group.name: group for group in self.embodiment.state}
        if unknown := sorted(self.state_of.keys() - {group.name for group in self.embodiment.action}):
            raise ValueError(f"state_of names {unknown}: the action groups are {[group.name for group in self.embodiment.action]}.")
        for group in self.embodiment.action:
            if not _turns(group):
                _check_measured(group, known.get(self.state_of.get(group.name, "")), sorted(known))

    def measured(self, state: Float[np.ndarray, " S"]) -> Float[np.ndarray, " A"]:
        """Where the robot is, as a set-point; a gripper is at the end that it is nearer to, small turns at zero."""
        slices, position = _slices(self.embodiment.state), np.zeros(self.embodiment.action_dimension)
        for group, part in zip(self.embodiment.action, _slices(self.embodiment.action).values(), strict=True):
            if not _turns(group):
                position[part] = _nearest_end(group, state[slices[self.state_of[group.name]]])
        return position

    def target(
        self, action: Float[np.ndarray, " A"], *, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """The set-point that `action` asks for."""
        return np.where(self.deltas, self.origin.of(commanded, measured), 0.0) + action

    def action(
        self, target: Float[np.ndarray, " A"], *, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """The action that asks for the set-point `target`."""
        return target - np.where(self.deltas, self.origin.of(commanded, measured), 0.0)

    @property
    def deltas(self) -> Bool[np.ndarray, " A"]:
        """Which dimensions change a set-point instead of naming one."""
        rows = [group.representation == "delta" for group in self.embodiment.action for _ in range(group.dimension)]
        return np.array(rows) & ~two_ended(self.embodiment)


def _turns(group: Group) -> bool:
    return group.representation == "delta" and group.rotation != "none"


def _slices(groups: tuple[Group, ...]) -> dict[str, slice]:
    ends = np.cumsum([group.dimension for group in groups])
    return {group.name: slice(end - group.dimension, end) for group, end in zip(groups, ends.tolist(), strict=True)}


def _nearest_end(group: Group, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    if group.gripper is None:
        return values
    middle, ends = (group.gripper.engaged + group.gripper.released) / 2, (group.gripper.released, group.gripper.engaged)
    return np.where((values > middle) == (ends[1] > ends[0]), ends[1], ends[0])


def _check_measured(group: Group, state: Group | None, known: list[str]) -> None:
    if state is None:
        raise ValueError(
            f"action group {group.name!r} is not measured: say under state_of which state group is its position: {known}."
        )
    if (state.dimension, state.representation) != (group.dimension, "absolute") or (
        group.gripper is None and state.unit != group.unit
    ):
        raise ValueError(
            f"action group {group.name!r} [{group.dimension}] in {group.unit} cannot be measured by {state.name!r} "
            f"[{state.dimension}], {state.representation} in {state.unit}."
        )
