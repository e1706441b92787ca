"""Work in a process of its own: its time, and the memory that it alone takes."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch

from vla_tune.bench.measure import Reading, memory_of, read_clocks


class Took(NamedTuple):
    """What one piece of work took."""

    seconds: Reading
    added_bytes: int
    """The most anonymous memory that the work added: mapped files do not count."""
    peak_bytes: int
    """The most anonymous memory of the whole process, interpreter and libraries included."""
    found: Any
    """What was looked up in the result, after the clocks had stopped."""


def in_its_own_process(work: Callable[[], Any], look: Callable[[Any], Any], *, threads: int) -> Took:
    """Do `work` with torch on `threads` threads, then `look` at the result; both must be picklable."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "vla_tune.models.openvla"])  # so that torch is imported once
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, work, look, threads=threads).result()


def measured(work: Callable[[], Any], look: Callable[[Any], Any], *, threads: int) -> Took:
    """The same in this process."""
    torch.set_num_threads(threads)
    with _Peak() as peak:
        start = read_clocks()
        result = work()
        end = read_clocks()
    return Took(Reading(end.wall - start.wall, end.cpu - start.cpu), peak.most - peak.before, peak.most, look(result))


class _Peak:
    """The most anonymous memory of this process, looked at every few milliseconds by a thread."""

    before: int
    most: int

    def __enter__(self) -> "_Peak":
        self.before = self.most = _anonymous()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, _anonymous())
            if self._done.is_set():
                return
            time.sleep(0.01)


def _anonymous() -> int:
    """Bytes that no file stands behind."""
    return memory_of("self", "RssAnon", "RssShmem")
