"""A process in which an environment lives, started without what this one has imported or opened."""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

import gymnasium
from gymnasium.vector.utils import CloudpickleWrapper

import vla_tune
from vla_tune.workers.wire import decode, encode

_ROOT = Path(vla_tune.__file__).parents[1]
_PROGRAM = """
import sys
from importlib.machinery import PathFinder
if sys.version_info < (3, 12):
    sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}: vla_tune needs 3.12 or later.")
class Ours:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [sys.argv[1]]) if name in ("vla_tune", "envs") else None
sys.meta_path.insert(0, Ours)
from vla_tune.workers.child import main
main()
"""
"""Finds our packages, and nothing else that is installed beside them."""
_LAST_BREATH_S = 1.0
"""How long a process that broke its connection may still take to end."""
_LEAVE_S = 10.0
"""How long an environment may take to close."""


class Process:
    """Calls the methods of an object that lives in a process of its own; arguments and answers are plain data.

    A fresh process, for a forked one could not use its parent's OpenGL or CUDA; it imports what its environments import, and not
    what this program did.

    Args:
        python: The interpreter that runs there; None is this one, which finds all that this program finds.

    Raises:
        ValueError: there is no such interpreter.
    """

    def __init__(self, python: str | None = None) -> None:
        self.surroundings = dict(os.environ) if python else self.surroundings_now()
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [python or sys.executable, "-c", _PROGRAM, str(_ROOT), str(number)]
            try:
                self._process = Popen(command, env=self.surroundings, pass_fds=[number], stdin=DEVNULL)
            except OSError as error:
                ours.close()
                raise ValueError(f"python={python}: no interpreter can be started there ({error.strerror}).") from None
        self.connection = Connection(ours.detach())

    @staticmethod
    def surroundings_now() -> dict[str, str]:
        """The variables with which a process of this interpreter is started: it finds what this program finds."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in sys.path if path))}

    def make(self, make_env: Callable[[], gymnasium.Env], **arguments: Any) -> None:
        """Have a `vla_tune.workers.worker.PlainWorker` made there; `answer` gives None once it is."""
        self.ask("make", arguments)
        try:
            self.connection.send(CloudpickleWrapper(make_env))
        except ConnectionError:
            raise self._ended() from None

    def ask(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method; `answer` gives what it returns."""
        try:
            self.connection.send_bytes(encode([method, dict(arguments)]))
        except ConnectionError:
            raise self._ended() from None

    def answer(self) -> Any:
        """What the last call returned, once it did.

        Raises:
            ValueError: the call raised it.
            RuntimeError: the call raised another error, which is named.
            ChildProcessError: the process ended, as a simulator that calls `abort` makes it.
        """
        try:
            problem, answer = decode(self.connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise self._ended() from None
        if problem is None:
            return answer
        kind, said, where = problem
        error = ValueError(said) if kind == "ValueError" else RuntimeError(f"the environment failed: {kind}: {said}")
        raise error from RuntimeError(f"in the environment's process:\n{where}")

    def hang_up(self) -> None:
        """Tell that nothing comes any more, upon which the process closes its environment and ends."""
        self.connection.close()

    def close(self) -> None:
        """Hang up, and wait for the end of the process; one that does not end is killed."""
        self.hang_up()
        try:
            self._process.wait(_LEAVE_S)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended(self) -> ChildProcessError:
        try:
            code = f"exit code {self._process.wait(_LAST_BREATH_S)}"
        except TimeoutExpired:
            code = "it still runs"
        said = f"the environment's process ended ({code}), without a word to this one"
        return ChildProcessError(f"{said}: look at what it printed, and at its memory.")
