"""How far and how fast a robot may be commanded, dimension by dimension."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.execution import two_ended
from vla_tune.schema import Embodiment, Group

type Values = float | int | Sequence[float | int]


@dataclass(frozen=True, kw_only=True)
class GroupLimits:
    """Of one action group; one number for all its dimensions, or one for each. Nothing has a default."""

    low: Values
    """The box in which set-points may lie, in the unit of the group."""
    high: Values
    step: Values
    """The largest change of the set-point in a tick, in the unit of the group."""
    velocity: Values
    """Per second."""
    acceleration: Values
    jerk: Values


@dataclass(frozen=True)
class Axes:
    """The limits of the continuous dimensions, in the order of the action."""

    continuous: Bool[np.ndarray, " A"]
    """The others are two-ended: a gripper, suction."""
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    step: Float[np.ndarray, " n"]
    velocity: Float[np.ndarray, " n"]
    acceleration: Float[np.ndarray, " n"]
    jerk: Float[np.ndarray, " n"]
    ends: Float[np.ndarray, "2 m"]
    """The smaller and the larger end of each two-ended dimension."""


@dataclass(frozen=True)
class Limits:
    """The limits of a robot, by the names of its action groups.

    Raises:
        ValueError: a limit is no finite number, or not positive, or `low` is not below `high`.
    """

    groups: Mapping[str, GroupLimits | Mapping[str, Values]]

    def axes(self, embodiment: Embodiment) -> Axes:
        """These limits in the order of the embodiment's action.

        Raises:
            ValueError: a group has no limits, or there are limits for a group that is not there or needs none.
        """
        wanted = [group for group in embodiment.action if group.gripper is None]
        self._check_names(embodiment.name, {group.name for group in wanted})
        for group in wanted:
            _check_kind(group)
        columns = {field.name: [] for field in fields(GroupLimits)}
        for group in wanted:
            for name, values in _columns(group, self.groups[group.name]).items():
                columns[name].append(values)
        ends = [group.gripper for group in embodiment.action for _ in range(group.dimension) if group.gripper is not None]
        pairs = [sorted((gripper.engaged, gripper.released)) for gripper in ends]
        return Axes(
            continuous=~two_ended(embodiment),
            ends=np.array(pairs, dtype=np.float64).reshape(-1, 2).T,
            **{name: np.concatenate(values) if values else np.zeros(0) for name, values in columns.items()},
        )

    def _check_names(self, robot: str, wanted: set[str]) -> None:
        if missing := sorted(wanted - self.groups.keys()):
            raise ValueError(f"{robot}: limits are missing for {', '.join(missing)}. A robot is not moved without: write them out.")
        if unknown := sorted(self.groups.keys() - wanted):
            raise ValueError(f"{robot}: limits for {', '.join(unknown)}, but the continuous action groups are {sorted(wanted)}.")


def _check_kind(group: Group) -> None:
    if group.representation == "absolute" and group.rotation != "none":
        raise ValueError(
            f"action group {group.name!r} holds absolute rotations as {group.rotation}, which cannot be limited number by number: "
            "train on joint positions or on small turns (delta)."
        )


def _columns(group: Group, given: GroupLimits | Mapping[str, Values]) -> dict[str, Float[np.ndarray, " n"]]:
    known = {field.name for field in fields(GroupLimits)}
    record = given if isinstance(given, Mapping) else {name: getattr(given, name) for name in known}
    if record.keys() != known:
        raise ValueError(f"limits of {group.name}: {sorted(known)} are needed, given are {sorted(record)}.")
    columns = {name: _column(group, name, values) for name, values in record.items()}
    if not (columns["low"] < columns["high"]).all():
        raise ValueError(f"limits of {group.name}: low {columns['low'].tolist()} must be below high {columns['high'].tolist()}.")
    return columns


def _column(group: Group, name: str, values: Values) -> Float[np.ndarray, " n"]:
    column = np.array(values, dtype=np.float64)
    if column.shape not in ((), (group.dimension,)):
        raise ValueError(f"limits of {group.name}: {name}={values} must be one number, or {group.dimension}, one per dimension.")
    if not np.isfinite(column).all() or (name not in ("low", "high") and (column <= 0).any()):
        raise ValueError(f"limits of {group.name}: {name}={values} must be finite{'' if name in ('low', 'high') else ', above 0'}.")
    return np.broadcast_to(column, (group.dimension,)).copy()
