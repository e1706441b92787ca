"""What a robot is for the controller."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vla_tune.schema import Embodiment, Observation


@dataclass(frozen=True)
class Seen:
    """An observation with the time at which it was true."""

    observation: Observation
    time: float
    """When the sensors were read, in the seconds of the controller's clock."""
    over: bool = False
    """Whether the robot says that the episode ended; a real one never does."""


class RobotError(OSError):
    """A robot, or what stands for one, failed."""


@runtime_checkable
class Robot(Protocol):
    """A robot that takes one action per tick.

    `observe` and `send` are called at every tick and must return well within it: cameras are read by threads of the driver, and
    `observe` gives the newest picture, with its time. `stop` is called from the watchdog's thread too, at any moment.
    """

    @property
    def embodiment(self) -> Embodiment:
        """What its observations and actions mean."""
        ...

    @property
    def hz(self) -> float:
        """Actions per second that it takes; a whole multiple of the policy's rate."""
        ...

    def connect(self) -> None:
        """Make it ready to be observed; it does not move.

        Raises:
            ConnectionError: it does not answer.
        """
        ...

    def observe(self) -> Seen:
        """The newest observation."""
        ...

    def send(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """Do this; returns what was really sent."""
        ...

    def hold(self) -> None:
        """Stay where it is, for this tick."""
        ...

    def stop(self) -> None:
        """Stand still from now on, whatever is sent."""
        ...

    def disconnect(self) -> None:
        """Let go of it. It does not move."""
        ...
