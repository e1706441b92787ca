"""Actions as a policy means them <-> absolute set-points, on which limits can act."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.execution import two_ended
from vla_tune.schema import Embodiment, Group, placed

_PURE = "1"
"""The unit of a number that says nothing about lengths or angles."""


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

    Where a delta has no position, the set-point is the sum of the actions from the beginning of the episode: its change in a tick
    is the action itself, its rate their sum in a second, and it says nothing about a pose. That is so for rotations in small turns,
    for deltas in the unit 1, which the robot scales in its own way (LIBERO, Meta-World), and for those that nothing measures.

    Args:
        embodiment: What the action means.
        state_of: Action group -> the state group that measures it, None where none does; every group is named, except small turns.
            What is absolute and not measured begins at its first action. `measured_by` finds them by name, unit and dimension.
        origin: Where deltas of a position begin.

    Raises:
        ValueError: a group is not named, or measured by a group of another size or unit.
    """

    embodiment: Embodiment
    state_of: Mapping[str, str | None]
    origin: Origin

    def __post_init__(self) -> None:
        known = {group.name: group for group in self.embodiment.state}
        if unknown := sorted(self.state_of.keys() - {group.name for group in self.embodiment.action}):
            raise ValueError(f"state_of names {unknown}: the action groups are {[group.name for group in self.embodiment.action]}.")
        for group in self.embodiment.action:
            if not _turns(group) and self.state_of.get(group.name, "") is not None:
                _check_measured(group, known.get(self.state_of.get(group.name) or ""), sorted(known))

    def measured(self, state: Float[np.ndarray, " S"]) -> Float[np.ndarray, " A"]:
        """Where the robot is, as a set-point.

        A gripper is at the end that it is nearer to, or released; a sum is at zero; what is absolute and not measured is NaN.
        """
        position = self._unmeasured_at.copy()
        for group, part, by, place in self._measured_parts:
            position[part] = _nearest_end(group, by, state[place])
        return position

    def target(
        self, action: Float[np.ndarray, " A"], *, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """The set-point that `action` asks for."""
        return self._begin(commanded, measured) + action

    def action(
        self, target: Float[np.ndarray, " A"], *, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        """The action that asks for the set-point `target`."""
        return target - self._begin(commanded, measured)

    @cached_property
    def deltas(self) -> Bool[np.ndarray, " A"]:
        """Which dimensions change a set-point instead of naming one."""
        return self._where(lambda group: group.representation == "delta") & ~two_ended(self.embodiment)

    @cached_property
    def unmeasured(self) -> Bool[np.ndarray, " A"]:
        """Which dimensions name a set-point of which nobody knows where it is before the first action."""
        absolute = self._where(lambda group: group.representation != "delta" and self._measuring(group) is None)
        return absolute & ~two_ended(self.embodiment)

    def _begin(self, commanded: Float[np.ndarray, " A"], measured: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        return np.where(self._sums, commanded, np.where(self.deltas, self.origin.of(commanded, measured), 0.0))

    @cached_property
    def _sums(self) -> Bool[np.ndarray, " A"]:
        """Which deltas have no position."""
        return self.deltas & self._where(lambda group: self._measuring(group) is None)

    @cached_property
    def _measured_parts(self) -> list[tuple[Group, slice, Group, slice]]:
        """The action groups that are measured, each with what measures it, and the place of both."""
        states = {group.name: part for group, part in placed(self.embodiment.state)}
        pairs = [(group, part, self._measuring(group)) for group, part in placed(self.embodiment.action)]
        return [(group, part, by, states[by.name]) for group, part, by in pairs if by is not None]

    @cached_property
    def _unmeasured_at(self) -> Float[np.ndarray, " A"]:
        """Where a set-point is of which nothing measured tells more."""
        position = np.zeros(self.embodiment.action_dimension)
        for group, part in placed(self.embodiment.action):
            if group.gripper is not None:
                position[part] = group.gripper.released
            elif group.representation != "delta":
                position[part] = np.nan
        return position

    def _measuring(self, group: Group) -> Group | None:
        """The state group that tells its position; a number without a unit is no way from one."""
        by = next((state for state in self.embodiment.state if state.name == self.state_of.get(group.name)), None)
        return None if by is None or _turns(group) or _scaled_by_the_robot(group, by) else by

    def _where(self, holds: Callable[[Group], bool]) -> Bool[np.ndarray, " A"]:
        return np.array([holds(group) for group in self.embodiment.action for _ in range(group.dimension)], dtype=bool)


def measured_by(embodiment: Embodiment) -> dict[str, str | None]:
    """Action group -> the state group that measures it, or None: its namesake, else the only one of its size, unit and frame."""
    taken = {group.name for group in embodiment.action}
    found: dict[str, str | None] = {}
    for group in embodiment.action:
        fitting = [state.name for state in embodiment.state if _fits(group, state)]
        others = [name for name in fitting if name not in taken]
        found[group.name] = group.name if group.name in fitting else others[0] if len(others) == 1 else None
    return found


def _turns(group: Group) -> bool:
    return group.representation == "delta" and group.rotation != "none"


def _scaled_by_the_robot(group: Group, state: Group) -> bool:
    return group.gripper is None and group.representation == "delta" and group.unit == _PURE and state.unit != _PURE


def _fits(group: Group, state: Group) -> bool:
    if (state.dimension, state.representation, state.rotation) != (group.dimension, "absolute", group.rotation):
        return False
    if group.gripper is not None:
        return state.gripper is not None or (state.name, state.unit) == (group.name, group.unit)
    scaled = group.representation == "delta" and group.unit == _PURE
    return (state.unit, state.frame) == (group.unit, group.frame) and state.gripper is None and not scaled


def _nearest_end(group: Group, state: Group, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """What a gripper that is measured so was told; the state's own ends count where it has some."""
    if group.gripper is None:
        return values
    ends = state.gripper or group.gripper
    engaged = (values > (ends.engaged + ends.released) / 2) == (ends.engaged > ends.released)
    return np.where(engaged, group.gripper.engaged, group.gripper.released)


def _check_measured(group: Group, state: Group | None, known: list[str]) -> None:
    if state is None:
        raise ValueError(
            f"action group {group.name!r} is not measured: say under state_of which state group is its position: {known}; or null, "
            "where none is."
        )
    same_unit = group.gripper is not None or state.unit == group.unit or _scaled_by_the_robot(group, state)
    if (state.dimension, state.representation) != (group.dimension, "absolute") or not same_unit:
        raise ValueError(
            f"action group {group.name!r} [{group.dimension}] in {group.unit} cannot be measured by {state.name!r} "
            f"[{state.dimension}], {state.representation} in {state.unit}."
        )
