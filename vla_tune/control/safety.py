"""What stands between a policy and a robot.

No old, broken or frozen observation is acted on, no chunk that no training data resembles is played, and no command leaves that is
not finite, inside the box, and smooth.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, RuckigError, Synchronization

from vla_tune.control.limits import Axes
from vla_tune.control.robot import Seen
from vla_tune.extents import Extents

_ROUNDING = 1e-4
"""Of a step's limit: set-points are made from float32 actions, which is no clamping."""
_PAST_THE_END = 0.05
"""Of a gripper's range: decoded codes end a little beyond it, which is no clamping."""
_AT_REST = 1e-6
"""Of a velocity's limit: a trajectory ends with rounding."""
_AHEAD = 0.02
"""Seconds by which a sensor's time may be ahead of the clock: a picture that stays would be fresh for so much longer."""


@dataclass(kw_only=True)
class Freshness:
    """Refuses observations that do not show the present.

    Args:
        stale: Seconds after which one is too old.
        frozen: Seconds of motion without a change in a camera's picture after which that camera is taken for frozen.
    """

    stale: float
    frozen: float
    _pictures: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    _moved: dict[str, float] = field(default_factory=dict, init=False)
    _last: float | None = field(default=None, init=False)

    def problem(self, seen: Seen, *, now: float, moving: bool) -> str | None:
        """Why `seen` is refused; None if it is not."""
        frozen = self._frozen(seen, now, moving)
        if not np.isfinite(seen.observation.state).all():
            return f"the observed state is {seen.observation.state.tolist()}"
        age = now - seen.time
        if age < -_AHEAD:
            return f"the observation is {-age:.2f} s ahead of the clock"
        if not age <= self.stale:  # a time that is NaN is none
            return f"the observation is {age:.2f} s old"
        return f"the camera {frozen} shows the same picture for {self.frozen:g} s of motion" if frozen else None

    def _frozen(self, seen: Seen, now: float, moving: bool) -> str | None:
        passed, self._last = 0.0 if self._last is None else now - self._last, now
        for role, picture in seen.observation.images.items():
            same = role in self._pictures and np.array_equal(self._pictures[role], picture)
            self._moved[role] = self._moved.get(role, 0.0) + (passed if moving else 0.0) if same else 0.0
            self._pictures[role] = picture
        return next((role for role, moved in self._moved.items() if moved > self.frozen), None)


@dataclass(frozen=True)
class ActionRange:
    """Refuses chunks that are not finite or far outside the actions of the training data.

    Args:
        extents: Of those actions.
        margin: How far outside is allowed, as a share of the range from min to max, or from engaged to released where that is
            more; decoded codes can lie some way outside (FAST's, by about a tenth of it), and two codes are always allowed: a
            dimension that never moved in the data has no range.
    """

    extents: Extents
    margin: float

    @cached_property
    def _allowed(self) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
        return self.extents.allowed(self.margin)

    def problem(self, chunk: Float[np.ndarray, "T A"]) -> str | None:
        """Why `chunk` is refused; None if it is not."""
        low, high = self._allowed
        if chunk.ndim != 2 or chunk.shape[1] != len(low) or not len(chunk):
            return f"it has shape {list(chunk.shape)}, not [T {len(low)}]"
        if not np.isfinite(chunk).all():
            return "it holds NaN or infinity"
        outside = (chunk < low) | (chunk > high)
        if not outside.any():
            return None
        row, column = np.argwhere(outside)[0].tolist()
        least, most = self.extents.low[column], self.extents.high[column]
        return f"dimension {column} is {chunk[row, column]:.4g}, in the training data {least:.4g} to {most:.4g}"


class UnsafeError(ValueError):
    """A set-point that cannot be made safe; the robot is held."""


@dataclass(frozen=True)
class Filtered:
    """A set-point that may be sent."""

    command: Float[np.ndarray, " A"]
    """Absolute, in the units of the action."""
    clamped: Bool[np.ndarray, " A"]
    """Where it is not what was asked for."""


class Safety:
    """Absolute set-points in, absolute set-points inside the limits out; one per tick.

    In order: finite; into the box; at most `step` from the last command; then a trajectory within velocity, acceleration and jerk
    (Ruckig, arXiv 2105.04830), of which the next tick's point is commanded. It continues from what was *commanded*, not from what
    was measured. Two-ended dimensions pass, limited to their ends.

    The trajectory ends at the target with the speed at which targets move on, which keeps it from lagging behind; but only with so
    much of it that it could still stop inside the box, and within `step` of the last command. As it could always stop there, no
    command leaves the box and none is further than `step` from the one before.

    Args:
        axes: The limits.
        hz: Ticks per second.
    """

    def __init__(self, axes: Axes, *, hz: float) -> None:
        self._axes, self._hz, count = axes, hz, len(axes.low)
        self._speed = axes.step * hz
        self._generator, self._out = Ruckig(count, 1.0), OutputParameter(count)
        self._now = InputParameter(count)  # from the last command on, in steps and ticks: Ruckig fails on large numbers
        self._now.max_velocity = (axes.velocity / self._speed).tolist()
        self._now.max_acceleration = (axes.acceleration / (self._speed * hz)).tolist()
        self._now.max_jerk = (axes.jerk / (self._speed * hz**2)).tolist()
        self._command: Float[np.ndarray, " A"] | None = None

    @property
    def command(self) -> Float[np.ndarray, " A"]:
        """The last command."""
        assert self._command is not None, "the filter was not seeded"
        return self._command

    @property
    def moving(self) -> bool:
        """Whether the last command was one of a motion."""
        return bool((np.abs(self._now.current_velocity) > _AT_REST * np.array(self._now.max_velocity)).any())

    def seed(self, position: Float[np.ndarray, " A"], *, unknown: Bool[np.ndarray, " A"] | None = None) -> None:
        """Begin at rest where the robot is; dimensions that are `unknown` begin at their first target, and are NaN until then.

        Raises:
            UnsafeError: what is known is not finite.
        """
        unknown = np.zeros(len(position), bool) if unknown is None else unknown
        _check_finite(position[~unknown])
        self._command, self._unknown = np.where(unknown, np.nan, position), unknown[self._axes.continuous]
        self._target = self._command[self._axes.continuous]
        at_rest = [0.0] * len(self._axes.low)
        self._now.current_velocity, self._now.current_acceleration = at_rest, at_rest

    def filter(self, target: Float[np.ndarray, " A"]) -> Filtered:
        """The command for this tick on the way to `target`.

        Raises:
            UnsafeError: `target` is not finite; nothing has changed.
        """
        _check_finite(target)
        axes = self._axes
        boxed = np.clip(target[axes.continuous], axes.low, axes.high)
        self._begin_at(boxed)
        before = self.command[axes.continuous]
        near = np.clip(boxed, before - axes.step, before + axes.step)
        self._now.control_interface = ControlInterface.Position
        self._now.minimum_duration = 1.0  # a target reached within the tick would be passed
        self._now.synchronization = Synchronization.Time
        self._now.target_position = ((near - before) / axes.step).tolist()
        self._now.target_velocity = (self._onward(near, before, (near - self._target) * self._hz) / self._speed).tolist()
        self._now.target_acceleration = [0.0] * len(near)
        self._target = near
        command = target.astype(np.float64)
        command[axes.continuous] = self._advance()
        command[~axes.continuous] = np.clip(command[~axes.continuous], *axes.ends)
        return self._commanded(command, target)

    def brake(self) -> Filtered:
        """The command for this tick on the shortest way to rest; two-ended dimensions keep what they have."""
        self._now.control_interface = ControlInterface.Velocity
        self._now.minimum_duration, self._now.synchronization = None, Synchronization.No  # each stops as soon as it can
        self._now.target_velocity = self._now.target_acceleration = [0.0] * len(self._axes.low)
        command = self.command.copy()
        command[self._axes.continuous] = self._target = self._advance()
        return self._commanded(command, command)

    def _begin_at(self, boxed: Float[np.ndarray, " n"]) -> None:
        """What was unknown is at its first target."""
        if not self._unknown.any():
            return
        self._target = np.where(self._unknown, boxed, self._target)
        self._command = self.command.copy()  # the one before may be in a log
        self._command[self._axes.continuous] = self._target
        self._unknown = np.zeros(len(boxed), bool)

    def _onward(
        self, target: Float[np.ndarray, " n"], before: Float[np.ndarray, " n"], rate: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """As much of `rate` as can be had at `target` without a run-up, and stopped again in time."""
        axes, way, direction = self._axes, np.abs(target - before), np.sign(rate)
        room = np.minimum(axes.step - way, np.minimum(target - axes.low, axes.high - target))
        gained = np.maximum(direction * np.array(self._now.current_velocity) * self._speed, _stoppable(axes, way))
        most = np.minimum(np.minimum(gained, axes.velocity), _stoppable(axes, np.maximum(room, 0.0)))
        return direction * np.clip(np.abs(rate), 0.0, most)

    def _advance(self) -> Float[np.ndarray, " n"]:
        if not len(self._axes.low):
            return np.zeros(0)
        self._now.current_position = [0.0] * len(self._axes.low)
        try:
            result = self._generator.update(self._now, self._out)
        except RuckigError:
            result = Result.Error
        if result not in (Result.Working, Result.Finished):
            raise UnsafeError(f"no trajectory inside the limits leads on from here ({result}).")
        self._out.pass_to_input(self._now)
        return self.command[self._axes.continuous] + np.array(self._out.new_position) * self._axes.step

    def _commanded(self, command: Float[np.ndarray, " A"], target: Float[np.ndarray, " A"]) -> Filtered:
        tolerance = np.empty(len(command))
        tolerance[self._axes.continuous] = _ROUNDING * self._axes.step
        tolerance[~self._axes.continuous] = _PAST_THE_END * (self._axes.ends[1] - self._axes.ends[0])
        self._command = command
        return Filtered(command, np.abs(command - target) > tolerance)


def _stoppable(axes: Axes, distance: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The speed from which one comes to rest within `distance`, without acceleration at first.

    Braking takes v sqrt(v / j) while the acceleration's limit a is not reached, v^2 / 2a + v a / 2j beyond.
    """
    short = (distance * np.sqrt(axes.jerk)) ** (2 / 3)
    change = axes.acceleration**2 / axes.jerk
    long = (np.sqrt(change**2 + 8 * axes.acceleration * distance) - change) / 2
    return np.where(short <= change, short, long)


def _check_finite(values: Float[np.ndarray, " A"]) -> None:
    if not np.isfinite(values).all():
        raise UnsafeError(f"a set-point is not finite: {values.tolist()}.")
