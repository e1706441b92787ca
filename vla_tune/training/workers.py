"""Processes that prepare batches: they start clean, are deaf to what stops a run, and are missed where nothing is half done."""

import multiprocessing
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import connection, resource_tracker
from pickle import PicklingError  # noqa: TID251 (an error to catch)
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from vla_tune.training.interruption import STOPPING

START_METHOD = "spawn"
"""A forked worker would share the open files of its parent, their positions included: decoders would read each other's bytes."""


class WorkerDiedError(ChildProcessError):
    """A process that prepares batches ended without being asked to; the message says how."""


@contextmanager
def started(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """The loader's items, with its workers running.

    Raises:
        ValueError: the samples cannot be sent to another process.
        WorkerDiedError: one has died. It is raised only out of `next`, never between two items.
    """
    before = set(multiprocessing.active_children())
    items = _begun(loader)
    workers = set(multiprocessing.active_children()) - before
    with _Deaths() as deaths, ExitStack() as stack:
        watched = _watched(items, workers, deaths)
        del items
        stack.callback(_end, workers)
        stack.callback(watched.close)  # lets go of the items, which asks the workers to end and waits for a moment
        yield watched


def _begun(loader: DataLoader[Any]) -> Iterator[Any]:
    if not loader.num_workers:
        return iter(loader)
    try:
        with _deaf_children():
            return iter(loader)
    except (PicklingError, TypeError, AttributeError) as error:
        raise ValueError(f"these samples cannot be sent to worker processes ({error}): use training.workers=0.") from error


def _watched(items: Iterator[Any], workers: set[Any], deaths: "_Deaths") -> Generator[Any]:
    while True:
        died, item = False, None
        try:
            with deaths.told():
                item = next(items, None)
        except (RuntimeError, OSError, EOFError) as error:
            # A death is a RuntimeError of torch's, or what was being received breaks off.
            died = bool(workers) and (not isinstance(error, RuntimeError) or str(error).startswith("DataLoader worker (pid"))
            if not died:
                raise
        if died:  # raised here: the error caught above would keep the items, and with them the workers
            raise WorkerDiedError(_how_it_ended(workers))
        if item is None:
            return
        yield item


def _how_it_ended(workers: set[Any]) -> str:
    ended = connection.wait([worker.sentinel for worker in workers], timeout=5)
    for worker in workers:
        if worker.sentinel in ended:  # its pipe closes a moment before its exit code is there
            worker.join(timeout=5)
    codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
    if not codes:
        return "a worker process broke off"
    how = f"was killed by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"ended with status {codes[0]}"
    return f"a worker process {how}"


def _end(workers: set[Any]) -> None:
    for worker in workers:
        worker.kill()  # those that are still there; they do not listen to anything less
        worker.join()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started inside inherit what is blocked here: a signal to the whole group stops the run and not its workers."""
    resource_tracker.ensure_running()  # it unblocks two of them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Deaths:
    """Holds back what torch raises when a worker dies: by itself it would do so wherever the main thread is, in an update too."""

    def __init__(self) -> None:
        self._raise: Any = None
        self._listening = self._pending = False

    def __enter__(self) -> "_Deaths":
        if threading.current_thread() is threading.main_thread():
            self._raise = signal.getsignal(signal.SIGCHLD)
            if callable(self._raise):
                signal.signal(signal.SIGCHLD, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if callable(self._raise):
            signal.signal(signal.SIGCHLD, self._raise)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self._listening:
            self._raise(number, frame)
        self._pending = True

    @contextmanager
    def told(self) -> Iterator[None]:
        """While entered, a death is raised; one that was held back, at once."""
        self._listening = True
        try:
            if self._pending:
                self._pending = False
                self._raise(signal.SIGCHLD, None)
            yield
        finally:
            self._listening = False
