"""Stops the robot when the loop itself hangs."""

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


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
