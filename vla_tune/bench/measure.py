"""Timing: the works of a suite in turn, round after round, by the wall's clock and by the processor's."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol, runtime_checkable

Row = dict[str, Any]
"""Plain JSON data: what was done, and how fast (median, lowest and highest of the repetitions)."""


@runtime_checkable
class Suite(Protocol):
    """Measures one thing."""

    def rows(self) -> list[Row]:
        """The measurements, made now."""
        ...


@runtime_checkable
class Reporting(Suite, Protocol):
    """Has rows of its own kind."""

    def report(self, rows: Sequence[Row]) -> str:
        """The rows as text."""
        ...


class Reading(NamedTuple):
    """Two clocks, s."""

    wall: float
    cpu: float
    """Of all threads of this process."""


def read_clocks() -> Reading:
    """Now."""
    return Reading(time.perf_counter(), time.process_time())


def memory_of(process: int | str, *kinds: str) -> int:
    """Bytes of `process` (a number, or `self`) now: the sum of these kinds of `/proc/<process>/status`, e.g. `VmRSS`."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in kinds)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something that takes time."""

    name: str
    unit: str
    """Of what is counted, in the plural."""
    do: Callable[[Any], int]
    """Does it with what `prepare` returned, and returns how many."""
    prepare: Callable[[], Any] = lambda: None
    """Is called before every repetition and not timed."""


@dataclass(frozen=True)
class Together:
    """Several suites, one after the other."""

    suites: Mapping[str, Suite]

    def rows(self) -> list[Row]:
        """The rows of all."""
        return [row for suite in self.suites.values() for row in suite.rows()]


@dataclass(frozen=True)
class Rates:
    """One repetition of one work."""

    amount: int
    seconds: Reading

    @property
    def per_second(self) -> float:
        """By the wall's clock."""
        return self.amount / self.seconds.wall

    @property
    def per_cpu_second(self) -> float:
        """By the processor's."""
        return self.amount / self.seconds.cpu


def measure(suite: str, works: Sequence[Work], *, repetitions: int, clocks: Callable[[], Reading] = read_clocks) -> list[Row]:
    """One row for each work.

    All works are done once before anything is timed, then once in each of `repetitions` rounds: a disturbance from outside meets
    neighbours alike. So a ratio, which is taken within each round, is steadier than the rates it is made of.

    Args:
        suite: Name for the rows.
        works: What to time. `ratio_...` compares a work with the first one of the same unit.
        repetitions: How many rounds.
        clocks: What is read before and after a work.

    Returns:
        Rows with suite, work, unit, amount (of the last repetition), repetitions, wall_seconds and cpu_seconds (medians), baseline,
        and `per_second`, `per_cpu_second`, `ratio_per_second`, `ratio_per_cpu_second`, each also with `_low` and `_high`.

    Raises:
        ValueError: there is nothing to repeat, or a work is too short for the clocks.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions}: at least 1 is needed, 5 show the spread.")
    for work in works:
        work.do(work.prepare())
    rounds = [[_timed(work, clocks) for work in works] for _ in range(repetitions)]
    return rows_of(suite, [(work.name, work.unit) for work in works], [list(column) for column in zip(*rounds, strict=True)])


def rows_of(suite: str, works: Sequence[tuple[str, str]], columns: Sequence[Sequence[Rates]]) -> list[Row]:
    """The rows that `measure` returns: of the name and unit of each work, and its repetitions."""
    firsts = [next(index for index, (_, other) in enumerate(works) if other == unit) for _, unit in works]
    return [
        {"suite": suite, "work": name, "unit": unit, **_summary(column, columns[first]), "baseline": works[first][0]}
        for (name, unit), column, first in zip(works, columns, firsts, strict=True)
    ]


def _timed(work: Work, clocks: Callable[[], Reading]) -> Rates:
    prepared = work.prepare()
    start = clocks()
    amount = work.do(prepared)
    end = clocks()
    seconds = Reading(end.wall - start.wall, end.cpu - start.cpu)
    if min(seconds) <= 0 or amount < 1:
        raise ValueError(f"{work.name!r} did {amount} {work.unit} in {seconds.cpu} CPU s: too little to measure, ask for more.")
    return Rates(amount, seconds)


def _summary(repetitions: Sequence[Rates], baseline: Sequence[Rates]) -> Row:
    row: Row = {
        "amount": repetitions[-1].amount,
        "repetitions": len(repetitions),
        "wall_seconds": median(one.seconds.wall for one in repetitions),
        "cpu_seconds": median(one.seconds.cpu for one in repetitions),
    }
    for name in ("per_second", "per_cpu_second"):
        rates, others = ([getattr(one, name) for one in column] for column in (repetitions, baseline))
        row |= _spread(name, rates)
        row |= _spread(f"ratio_{name}", [rate / other for rate, other in zip(rates, others, strict=True)])
    return row


def _spread(name: str, values: Sequence[float]) -> Row:
    return {name: median(values), f"{name}_low": min(values), f"{name}_high": max(values)}
