"""Ways to stop a robot at once; none of them waits for a network."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

_log = logging.getLogger(__name__)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@runtime_checkable
class EmergencyStop(Protocol):
    """Asked at every tick."""

    def pressed(self) -> str | None:
        """Why to stop; None goes on."""
        ...


@dataclass(frozen=True)
class StopFile:
    """Stops when this file exists: `touch STOP` from any terminal."""

    path: str

    def pressed(self) -> str | None:
        """The file's name."""
        return f"the file {self.path} exists" if Path(self.path).exists() else None


@dataclass(eq=False)
class StopKey:
    """Stops when return is pressed in the terminal that controls."""

    source: TextIO = field(default_factory=lambda: sys.stdin)
    _read: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        if self.source.isatty():
            threading.Thread(target=self._wait, name="stop key", daemon=True).start()

    def pressed(self) -> str | None:
        """Whether it was."""
        return "return was pressed" if self._read.is_set() else None

    def _wait(self) -> None:
        if self.source.readline():
            self._read.set()


@dataclass(eq=False)
class StopSignal:
    """Stops on every signal that asks a program to end, which would otherwise end it in the middle of a motion.

    SIGINT is Ctrl-C, SIGQUIT Ctrl-backslash; SIGHUP comes when the terminal closes or ssh drops, SIGUSR1 and SIGUSR2 from
    schedulers before a time limit. SIGHUP stays ignored where the program was started so (nohup).
    """

    _received: list[int] = field(default_factory=list, init=False)

    def pressed(self) -> str | None:
        """The first signal that came."""
        return f"{signal.Signals(self._received[0]).name} was received" if self._received else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals until the block ends; only the main thread can."""
        survives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        before = {number: signal.signal(number, self._note) for number in _ENDING if not (survives and number is signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self._received.append(number)


class Watchdog:
    """A thread that calls `stop` when nobody called `beat` for `seconds`; once.

    It is independent of the loop and of the policy: a camera driver that blocks, or a bug that spins, cannot hold it up. Code that
    keeps the interpreter's lock can: then it stops the robot as soon as the lock is free. It is no process of its own, because a
    robot's bus belongs to the process that opened it, and another could not stop it there. Until then nothing is sent, so a robot
    stays at its last set-point, which is never further than a step from the one before; and messages are read within bounds.
    """

    def __init__(self, stop: Callable[[], None], *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        if seconds <= 0:
            raise ValueError(f"watchdog seconds={seconds}: must be above 0, and several ticks long.")
        self._stop, self._seconds, self._clock = stop, seconds, clock
        self._last = clock()
        self._over = threading.Event()
        self._reason: str | None = None
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """The loop is alive."""
        self._last = self._clock()

    def pressed(self) -> str | None:
        """Why it stopped the robot (an `EmergencyStop`)."""
        return self._reason

    def close(self) -> None:
        """The loop ended, as it should."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._seconds / 4):
            silent = self._clock() - self._last
            if silent > self._seconds:
                self._reason = f"the control loop was silent for {silent:.2f} s"
                _log.error("%s: the robot is stopped.", self._reason)
                self._stop()
                return


@dataclass(frozen=True)
class AnyOf:
    """Stops when one of several says so."""

    stops: Sequence[EmergencyStop]

    def pressed(self) -> str | None:
        """What the first that was pressed says."""
        return next((reason for stop in self.stops if (reason := stop.pressed())), None)
