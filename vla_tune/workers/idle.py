"""Processes that serve nobody and wait for the next environment: what they imported need not be imported again."""

import atexit
import time

from vla_tune.workers.child import IDLE_S
from vla_tune.workers.process import Process

_USABLE_S = IDLE_S / 2
"""A process leaves after `IDLE_S`; one that is about to is not asked any more."""


class Idle:
    """Processes of this program's interpreter that wait, the last one first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, Process]] = []

    def take(self) -> Process:
        """One of those that wait, or a new one."""
        fresh = Process.surroundings_now()
        while self._waiting:
            since, process = self._waiting.pop()
            if time.monotonic() - since < _USABLE_S and process.surroundings == fresh:
                return process
            process.close()
        return Process()

    def give(self, process: Process, *, ending: str) -> None:
        """Let a process, whose last call was answered, wait for its next environment, for a minute at most.

        Args:
            process: The process; one that cannot close its environment has done its work, and is ended.
            ending: `clear`: its environments are closed; `close`: those on a `Shelf` lie there for who comes next.
        """
        try:
            process.ask(ending, {})
            process.answer()
        except (ValueError, RuntimeError, ChildProcessError):
            process.close()
        else:
            self._waiting.append((time.monotonic(), process))

    def hand_over(self, other: "Idle") -> None:
        """Let those that wait here wait there, their environments closed."""
        while self._waiting:
            other.give(self._waiting.pop()[1], ending="clear")

    def leave(self) -> None:
        """Ends those that wait."""
        while self._waiting:
            self._waiting.pop()[1].close()


IDLE = Idle()
"""Those of the whole program."""
atexit.register(IDLE.leave)
