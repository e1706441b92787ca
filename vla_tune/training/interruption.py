"""Ctrl-C and SIGTERM end a run after the step in progress."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """The run was stopped from outside, after it saved a checkpoint. A script exits with 130."""


class Interruption:
    """While entered, remembers SIGINT and SIGTERM in `requested`; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        # Signal handlers belong to the main thread; in another one (a server, a notebook's kernel) nothing can be caught.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        os.write(2, b"\nStopping after this step; once more to stop at once.\n")  # a print here may meet another one half done
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
