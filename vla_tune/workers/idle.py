"""Processes that have closed their environment and wait for the next: what they imported need not be imported again."""

import atexit
import time

from vla_tune.workers.child import IDLE_S
from vla_tune.workers.process import Process

_USABLE_S = IDLE_S / 2
"""A process leaves after `IDLE_S`; one that is about to is not asked any more."""
_idle: list[tuple[float, Process]] = []


def take() -> Process:
    """A process of this program's interpreter, of those that wait or a new one."""
    fresh = Process.surroundings_now()
    while _idle:
        since, process = _idle.pop()
        if time.monotonic() - since < _USABLE_S and process.surroundings == fresh:
            return process
        process.close()
    return Process()


def give(process: Process) -> None:
    """Let a process, whose last call was answered, wait for its next environment, for a minute at most."""
    process.ask("close", {})
    process.answer()
    _idle.append((time.monotonic(), process))


@atexit.register
def leave() -> None:
    """Ends those that wait."""
    while _idle:
        _idle.pop()[1].close()
