"""How far and how fast a robot may be commanded, dimension by dimension."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.control.setpoints import measured_by
from vla_tune.execution import two_ended
from vla_tune.extents import Extents
from vla_tune.schema import Embodiment, Group, placed

type Values = float | int | Sequence[float | int]


@dataclass(frozen=True, kw_only=True)
class GroupLimits:
    """Of one action group, in its unit; one number for all its dimensions, or one for each. Nothing has a default.

    The set-point of a delta without a position is the sum of its actions (`vla_tune.control.setpoints.SetPoints`): there `step`
    bounds the action itself, `velocity` what the actions of a second come to, `acceleration` how fast this changes.
    """

    low: Values | None
    """The box in which set-points may lie; null for a delta that may go anywhere."""
    high: Values | None
    step: Values
    """The largest change of the set-point in a tick."""
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

    groups: Mapping[str, GroupLimits | Mapping[str, Values | None]]

    def axes(self, embodiment: Embodiment, extents: Extents | None = None) -> Axes:
        """These limits in the order of the embodiment's action; how far the data reaches does not matter.

        Raises:
            ValueError: a group has no limits, or there are limits for a group that is not there or needs none.
        """
        wanted = [group for group in embodiment.action if group.gripper is None]
        self._check_names(embodiment.name, {group.name for group in wanted})
        for group in wanted:
            _check_kind(group)
        columns = {limit.name: [] for limit in fields(GroupLimits)}
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


@dataclass(frozen=True)
class LimitsOfData:
    """Limits for a simulated robot, where nothing can break: as far as the training data's actions reach, and not slower than they.

    An absolute group stays within the data's smallest and largest values and a margin, and may cross that range in a tick. A delta
    is as large as the data's largest and the margin at most (twice that from the last command where it has a position: the
    environment may not have reached it); it may go anywhere. So what a `vla_tune.control.safety.ActionRange` of the same margin
    lets pass is never held back. A workspace, or the speed of a real robot, has to be given.

    Args:
        margin: As a share of the data's range.
        groups: Limits of your own, by action group, instead of these.
    """

    margin: float
    groups: Mapping[str, GroupLimits | Mapping[str, Values | None]] = field(default_factory=dict)

    def axes(self, embodiment: Embodiment, extents: Extents) -> Axes:
        """These limits in the order of the embodiment's action.

        Raises:
            ValueError: as `Limits.axes` does.
        """
        derived, state_of = dict[str, GroupLimits | Mapping[str, Values | None]](), measured_by(embodiment)
        low, high = extents.allowed(self.margin)
        for group, part in placed(embodiment.action):
            reach = np.maximum(np.abs(low), np.abs(high)) * (1 if state_of[group.name] is None else 2)
            delta = group.representation == "delta"
            if group.gripper is None:
                step = reach[part] if delta else (high - low)[part]
                box = (None, None) if delta else (low[part].tolist(), high[part].tolist())
                derived[group.name] = _as_quick(step, box, hz=embodiment.control_hz)
        return Limits(derived | dict(self.groups)).axes(embodiment)


_QUICK = np.array([1.0, 5.0, 27.0, 200.0])
"""Step, velocity, acceleration and jerk, in steps and ticks, with which any step can follow on any other (a test shows it)."""


def _as_quick(step: Float[np.ndarray, " n"], box: tuple[Values | None, Values | None], *, hz: float) -> GroupLimits:
    rates = np.multiply.outer(_QUICK * hz ** np.arange(4), step).tolist()
    return GroupLimits(low=box[0], high=box[1], **dict(zip(("step", "velocity", "acceleration", "jerk"), rates, strict=True)))


def _check_kind(group: Group) -> None:
    if group.representation != "delta" and group.rotation != "none":
        raise ValueError(
            f"action group {group.name!r} holds {group.representation} rotations as {group.rotation}, which cannot be limited "
            "number by number: train on joint positions or on small turns (delta)."
        )


def _columns(group: Group, given: GroupLimits | Mapping[str, Values | None]) -> dict[str, Float[np.ndarray, " n"]]:
    known = {limit.name for limit in fields(GroupLimits)}
    record = given if isinstance(given, Mapping) else {name: getattr(given, name) for name in known}
    if record.keys() != known:
        raise ValueError(f"limits of {group.name}: {sorted(known)} are needed, given are {sorted(record)}.")
    columns = {name: _column(group, name, values) for name, values in record.items()}
    if not (columns["low"] < columns["high"]).all():
        raise ValueError(f"limits of {group.name}: low {columns['low'].tolist()} must be below high {columns['high'].tolist()}.")
    return columns


def _column(group: Group, name: str, values: Values | None) -> Float[np.ndarray, " n"]:
    if values is None:
        return _no_box(group, name)
    column = np.array(values, dtype=np.float64)
    if column.shape not in ((), (group.dimension,)):
        raise ValueError(f"limits of {group.name}: {name}={values} must be one number, or {group.dimension}, one per dimension.")
    if not np.isfinite(column).all() or (name not in ("low", "high") and (column <= 0).any()):
        raise ValueError(f"limits of {group.name}: {name}={values} must be finite{'' if name in ('low', 'high') else ', above 0'}.")
    return np.broadcast_to(column, (group.dimension,)).copy()


def _no_box(group: Group, name: str) -> Float[np.ndarray, " n"]:
    if group.representation != "delta" or name not in ("low", "high"):
        raise ValueError(f"limits of {group.name}: {name} is null; low and high of a delta may be, which then may go anywhere.")
    return np.full(group.dimension, -np.inf if name == "low" else np.inf)
