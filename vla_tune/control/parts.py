"""What a controller consists of."""

from dataclasses import dataclass, field

from vla_tune.control.emergency import EmergencyStop
from vla_tune.control.log import TickLog
from vla_tune.control.robot import Robot
from vla_tune.control.safety import ActionRange, Safety
from vla_tune.control.setpoints import SetPoints
from vla_tune.control.state import Clock, Rules, WallClock
from vla_tune.execution import Execution
from vla_tune.schema import Policy, same_rate


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a controller consists of.

    Attributes:
        robot: Takes an action per tick; if it ticks faster than the policy acts, set-points between are interpolated.
        policy: Gives chunks, in the background.
        actions: Which of them are refused.
        set_points: What actions mean.
        safety: What may be commanded.
        execution: How chunks are played.
        stop: Polled at every tick.
        rules: When to hold and when to stop.
        log: Is told of every tick.
        clock: Time.
    """

    robot: Robot
    policy: Policy
    actions: ActionRange
    set_points: SetPoints
    safety: Safety
    execution: Execution
    stop: EmergencyStop
    rules: Rules
    log: TickLog
    clock: Clock = field(default_factory=WallClock)


def ticks_per_action(robot_hz: float, policy_hz: float) -> int:
    """How many ticks of the robot one action of the policy takes.

    Raises:
        ValueError: it is no whole number.
    """
    ticks = round(robot_hz / policy_hz)
    if ticks < 1 or not same_rate(robot_hz, ticks * policy_hz):
        raise ValueError(f"the robot ticks at {robot_hz:g} Hz, the policy acts at {policy_hz:g} Hz: choose a whole multiple of it.")
    return ticks
