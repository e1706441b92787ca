"""The controller's states, rules and counts, and its time."""

import time
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol, runtime_checkable


class State(StrEnum):
    """INIT -> ARMED -> RUN <-> HOLD -> STOP; every state can go to STOP, which has no way out."""

    INIT = "INIT"
    """Nothing is observed."""
    ARMED = "ARMED"
    """Observed, and held until the first chunk is there."""
    RUN = "RUN"
    """Actions are played."""
    HOLD = "HOLD"
    """Braked to rest and held, until there is a chunk from a fresh observation."""
    STOP = "STOP"
    """Braked to rest and stopped."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When to hold and when to stop."""

    stale: float
    """Seconds after which an observation, or a chunk made from it, is too old."""
    frozen: float
    """Seconds of motion without a change in a camera's picture, after which nothing is acted on."""
    patience: float
    """Seconds of holding after which the robot is stopped."""
    rejections: int
    """Chunks in a row that may be refused before the robot is stopped."""
    watchdog: float
    """Seconds without a tick after which the robot is stopped from outside."""

    def __post_init__(self) -> None:
        for rule in fields(self):
            if getattr(self, rule.name) <= 0:
                raise ValueError(f"rules.{rule.name}={getattr(self, rule.name)}: must be above 0.")


@dataclass
class Counts:
    """What a run came to."""

    ticks: int = 0
    starved: int = 0
    """Ticks in HOLD: something was missing."""
    clamped: int = 0
    """Ticks at which a limit changed what was asked for."""
    rejected: int = 0
    """Chunks that were refused."""
    failures: int = 0
    """Questions that the policy did not answer."""
    stale: int = 0
    """Observations and chunks that were too old, broken or frozen."""
    late: int = 0
    """Ticks that did not happen because the one before took too long."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from an observation to its chunk."""


@runtime_checkable
class Clock(Protocol):
    """Seconds, and waiting for them."""

    def now(self) -> float:
        """Monotonic."""
        ...

    def sleep_until(self, when: float) -> None:
        """Returns at once if this is past."""
        ...


@dataclass(frozen=True)
class WallClock:
    """Real time."""

    now = staticmethod(time.monotonic)
    """Seconds since some moment in the past."""

    def sleep_until(self, when: float) -> None:
        """Sleeps for the rest."""
        time.sleep(max(0.0, when - self.now()))
