"""A signal ends a run after the step in progress."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, the end that a scheduler sends, a terminal that is closed, and the warnings of Slurm and submitit before the end."""


class TrainingInterrupted(KeyboardInterrupt):
    """The run was stopped from outside, after it saved a checkpoint. A script exits with 130."""


class Interruption:
    """While entered, remembers in `requested` that one of `STOPPING` came; a second Ctrl-C ends the run at once.

    Any other second signal changes nothing: a scheduler, its launcher and `timeout` often send two. Under `nohup` a closed
    terminal is ignored, as the user asked.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        # Signal handlers belong to the main thread; in another one (a server, a notebook's kernel) nothing can be caught.
        if threading.current_thread() is threading.main_thread():
            caught = [number for number in STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._request) for number in caught}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: C code had set it
        self._previous = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                _say("Stopped at once; the last checkpoint stands: the same command goes on from there.")
                raise TrainingInterrupted("stopped at once; the last checkpoint stands")
            return
        self.requested = True
        _say("Stopping after this step; Ctrl-C once more to stop at once.")


def _say(line: str) -> None:
    with suppress(OSError):  # the terminal that hung up takes no more text
        os.write(2, f"\n{line}\n".encode())  # a print here may meet another one half done
