"""Cells of a benchmark within a time: each becomes a row, whatever happens in it."""

import gc
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import torch

from vla_tune.bench.measure import Row

MEASURED, OUT_OF_MEMORY, SKIPPED, TOO_SLOW, FAILED = "measured", "out of memory", "skipped", "too slow", "failed"
"""What a row's `status` says; `failed` is a mistake of ours, the others are findings."""


@dataclass(frozen=True)
class Cell:
    """One thing to measure."""

    names: Row
    """What it is; all of it goes into the row."""
    seconds: float
    """About how long it takes, preparation included: it is not begun where less is left."""
    measure: Callable[[], Row]
    """Measures it; the rest of the row."""


type Cells = Generator[Cell, Row]
"""Cells in the order in which they are measured; each `yield` gives the row that became of the cell."""


class TooSlowError(RuntimeError):
    """A cell ran into its limit."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Seconds for all cells, and for each; counted from when this is made."""

    total: float
    per_cell: float
    clock: Callable[[], float] = time.monotonic
    start: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", self.clock())

    @property
    def left(self) -> float:
        """Of the total."""
        return self.total - (self.clock() - self.start)

    def row(self, cell: Cell) -> Row:
        """Measure a cell: its names, `status`, `reason` where there is one, the seconds it took, and what it measured."""
        if cell.seconds > self.left:
            reason = f"{self.left:.0f} s of {self.total:.0f} s are left, and this takes about {cell.seconds:.0f} s"
            return cell.names | {"status": SKIPPED, "reason": reason, "seconds": 0.0}
        began = self.clock()
        outcome = _outcome(cell, limit=min(self.per_cell, self.left))
        release_memory()
        return cell.names | outcome | {"seconds": self.clock() - began}


def guarded(names: Row, cells: Cells) -> Cells:
    """The cells; where there is a mistake between two of them, one more that failed instead of the rest."""
    try:
        yield from cells
    except Exception as error:
        yield Cell(names, 0.0, partial(_raise, error))


def rows_of(cells: Cells, budget: Budget) -> Iterator[Row]:
    """The row of each cell, as soon as it is there."""
    row: Row | None = None
    while True:
        try:
            cell = next(cells) if row is None else cells.send(row)
        except StopIteration:
            return
        row = budget.row(cell)
        yield row


def release_memory() -> None:
    """Give back to the device what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise(error: Exception) -> Row:
    raise error


def _outcome(cell: Cell, *, limit: float) -> Row:
    alarm = _Alarm()
    try:
        with alarm.after(limit):
            return {"status": MEASURED, "reason": None} | cell.measure()
    except torch.OutOfMemoryError as error:
        return {"status": OUT_OF_MEMORY, "reason": _first_line(error)}
    except Exception as error:  # a benchmark on a lent machine goes on; the exit code says that something failed
        if alarm.rang:  # compilers wrap what is raised inside them
            return {"status": TOO_SLOW, "reason": f"not done after {limit:.0f} s"}
        traceback.print_exc()
        return {"status": FAILED, "reason": f"{type(error).__name__}: {_first_line(error)}"}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


class _Alarm:
    """Raises `TooSlowError` when a time is over: between two steps of Python, so kernels that run are waited for."""

    rang = False

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _ring(self, _: int, __: FrameType | None) -> None:
        self.rang = True
        raise TooSlowError
