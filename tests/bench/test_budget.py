"""Whatever happens in a cell becomes a row."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vla_tune.bench.budget import Budget, Cell, Cells, guarded, rows_of


class Clock:
    """Moves when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def cell(name: str, measure=dict, *, seconds: float = 1.0) -> Cell:
    return Cell({"work": name}, seconds, measure)


def raising(error: Exception):
    def measure() -> dict[str, Any]:
        raise error

    return measure


def budget(**changes: Any) -> Budget:
    return Budget(**{"total": 60.0, "per_cell": 30.0, "clock": Clock()} | changes)


def test_a_cell_has_its_names_what_it_measured_and_how_long_it_took():
    clock = Clock()

    def measure() -> dict[str, Any]:
        clock.now += 2.5
        return {"rate": 7.0}

    row = budget(clock=clock).row(cell("a", measure))
    assert row == {"work": "a", "status": "measured", "reason": None, "rate": 7.0, "seconds": 2.5}


def test_what_would_take_too_long_is_not_begun():
    clock = Clock()
    limited = budget(clock=clock)
    clock.now += 50.0
    row = limited.row(cell("late", raising(AssertionError("begun")), seconds=20.0))
    assert row["status"] == "skipped"
    assert row["reason"] == "10 s of 60 s are left, and this takes about 20 s"
    assert limited.row(cell("short", seconds=9.0))["status"] == "measured"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried.\nMore"), "out of memory", "CUDA out of memory. Tried."),
        (ValueError("wrong"), "failed", "ValueError: wrong"),
    ],
)
def test_errors_become_rows(error: Exception, status: str, reason: str, capsys: pytest.CaptureFixture[str]):
    row = budget().row(cell("a", raising(error)))
    assert (row["status"], row["reason"]) == (status, reason)
    assert ("Traceback" in capsys.readouterr().err) == (status == "failed")


def endless() -> dict[str, Any]:
    while True:
        pass


def wrapping() -> dict[str, Any]:
    """As compilers do: what is raised inside becomes an error of theirs."""
    try:
        endless()
    except Exception as error:
        raise RuntimeError("of the compiler") from error
    return {}


@pytest.mark.parametrize("measure", [endless, wrapping])
def test_a_cell_that_does_not_end_is_ended(measure):
    row = budget(per_cell=0.01).row(cell("endless", measure))
    assert (row["status"], row["reason"]) == ("too slow", "not done after 0 s")


def test_a_row_is_there_before_the_next_cell_and_tells_what_comes_next():
    def cells() -> Cells:
        row = yield cell("large", raising(torch.OutOfMemoryError("no")))
        if row["status"] == "out of memory":
            yield cell("smaller")

    rows = rows_of(cells(), budget())
    assert next(rows)["work"] == "large"
    assert next(rows)["status"] == "measured"
    assert list(rows) == []


def test_a_mistake_between_cells_costs_the_group_only():
    def broken() -> Cells:
        yield cell("first")
        raise KeyError("between")

    def both() -> Cells:
        yield from guarded({"work": "group"}, broken())
        yield from guarded({"work": "other"}, sound())

    def sound() -> Cells:
        yield cell("second")

    rows: Iterator[dict[str, Any]] = rows_of(both(), budget())
    assert [(row["work"], row["status"]) for row in rows] == [("first", "measured"), ("group", "failed"), ("second", "measured")]
