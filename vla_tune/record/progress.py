"""How far a recording is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla_tune.printing import say
from vla_tune.record.episode import Done

_LINES = 10
"""Of a whole recording, where there is no terminal."""


def shown(outcomes: Iterable[Done], *, total: int, there: int) -> Iterator[Done]:
    """The same outcomes, while it is told how many there are, how long the rest will take, and how many attempts were kept.

    Args:
        outcomes: As they come.
        total: Episodes of the whole recording.
        there: Of these, how many an earlier one had finished.
    """
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    kept, tried, begun = Counter[str](), Counter[str](), time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("recording", total=total, completed=there)
        for outcome in outcomes:
            kept[outcome.task] += outcome.kept
            tried[outcome.task] += outcome.kept + outcome.failed
            bar.update(row, advance=1, description=f"recording, {kept.total()} of {tried.total()} attempts kept")
            done = there + kept.total()
            if not console.is_terminal and done * _LINES // total > (done - 1) * _LINES // total:
                left = (total - done) * (time.monotonic() - begun) / max(kept.total(), 1)
                say(f"{done} of {total} episodes recorded, about {_minutes(left)} left; attempts kept: {shares(kept, tried)}.")
            yield outcome


def shares(kept: Mapping[str, int], tried: Mapping[str, int]) -> str:
    """Kept of tried by task, `0 25/25, 1 25/27`."""
    return ", ".join(f"{task} {kept[task]}/{tried[task]}" for task in sorted(tried))


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
