"""What the parts of a command took: of the clock, and of all cores."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil

_PARTS = ("record", "train", "evaluate")
"""As they are told; a part that took place inside another counts as itself alone."""


class Budget:
    """Adds up seconds by part; the CPU's are also those of processes that were started, and of theirs."""

    def __init__(self) -> None:
        self._spent: dict[str, list[float]] = {}
        self._inside: list[list[float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What this block takes is of the part `name`, without what is of another in it."""
        begun, others = _now(), [0.0, 0.0]
        self._inside.append(others)
        try:
            yield
        finally:
            self._inside.pop()
            taken = [now - then for now, then in zip(_now(), begun, strict=True)]
            own = [whole - other for whole, other in zip(taken, others, strict=True)]
            self._spent[name] = [sum(pair) for pair in zip(self._spent.get(name, [0.0, 0.0]), own, strict=True)]
            for outer in self._inside[-1:]:
                outer[:] = [sum(pair) for pair in zip(outer, taken, strict=True)]

    @property
    def record(self) -> dict[str, dict[str, float]]:
        """Minutes by part, as JSON data."""
        named = {name: self._spent[name] for name in _PARTS if name in self._spent}
        return {name: {"minutes": wall / 60, "cpu_minutes": cpu / 60} for name, (wall, cpu) in named.items()}


def in_words(record: Mapping[str, Any]) -> str:
    """`record 19.2 min (36.1 CPU min), train ..., together ...`."""
    parts = {**record, "together": {name: sum(part[name] for part in record.values()) for name in ("minutes", "cpu_minutes")}}
    return ", ".join(f"{name} {part['minutes']:.1f} min ({part['cpu_minutes']:.1f} CPU min)" for name, part in parts.items())


def _now() -> tuple[float, float]:
    here = psutil.Process()
    spent = sum(here.cpu_times()[:4])  # of this process, and of those of its children that ended
    for child in here.children(recursive=True):
        with suppress(psutil.Error):  # it ends just now
            spent += sum(child.cpu_times()[:4])
    return time.perf_counter(), spent
