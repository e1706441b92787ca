"""What happened at every tick."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from vla_tune.control.robot import Seen
from vla_tune.schema import Embodiment


@dataclass(frozen=True)
class Tick:
    """One turn of the loop. Where there is no value, e.g. no action because the robot is held, numbers are NaN."""

    tick: int
    time: float
    """When it began, in seconds of the controller's clock."""
    state: str
    observation_time: float
    raw: Float[np.ndarray, " A"]
    """The policy's action."""
    asked: Float[np.ndarray, " A"]
    """The set-point that it asks for."""
    command: Float[np.ndarray, " A"]
    """The set-point that was commanded."""
    sent: Float[np.ndarray, " A"]
    """The action that the robot was sent."""
    clamped: Bool[np.ndarray, " A"]
    note: str
    """Why the state changed, or what was dropped."""


@runtime_checkable
class TickLog(Protocol):
    """Keeps ticks."""

    def add(self, tick: Tick, seen: Seen) -> None:
        """One more; must not take long."""
        ...

    def end_episode(self) -> None:
        """The next tick belongs to another episode."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class JsonLines:
    """A line for each tick, written as it happens: what was logged survives whatever ends the program."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._episode = path.open("a", buffering=1), 0

    def add(self, tick: Tick, seen: Seen) -> None:
        """Writes it."""
        record = {name: _plain(value) for name, value in asdict(tick).items()}
        self._file.write(json.dumps({"episode": self._episode} | record) + "\n")

    def end_episode(self) -> None:
        """Counts."""
        self._episode += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class InMemory:
    """A list."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []

    def add(self, tick: Tick, seen: Seen) -> None:
        """Appends it."""
        self.ticks.append(tick)

    def end_episode(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Nothing:
    """Keeps nothing."""

    def add(self, tick: Tick, seen: Seen) -> None:
        """Nothing."""

    def end_episode(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def no_more(root: Path, embodiment: Embodiment, *, hz: float) -> Nothing:
    """No dataset beside the lines (a choice of `conf/ticks`)."""
    return Nothing()


class All:
    """Several logs at once."""

    def __init__(self, logs: Sequence[TickLog]) -> None:
        self._logs = logs

    def add(self, tick: Tick, seen: Seen) -> None:
        """To each."""
        for log in self._logs:
            log.add(tick, seen)

    def end_episode(self) -> None:
        """In each."""
        for log in self._logs:
            log.end_episode()

    def close(self) -> None:
        """All of them."""
        for log in self._logs:
            log.close()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [None if isinstance(item, float) and not np.isfinite(item) else item for item in value.tolist()]
    return value
