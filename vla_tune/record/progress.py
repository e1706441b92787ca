"""How far a recording is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vla_tune.printing import rounded, say
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
    kept, tried, begun = Counter[str](), Counter[str](), 0.0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("recording", total=total, completed=there)
        for outcome in outcomes:
            begun = begun or time.monotonic()  # what comes before the first is environments being made
            kept[outcome.task] += outcome.kept
            tried[outcome.task] += outcome.kept + outcome.failed
            bar.update(row, advance=1, description=f"recording, {kept.total()} of {tried.total()} attempts kept")
            done = there + kept.total()
            if not console.is_terminal and done * _LINES // total > (done - 1) * _LINES // total:
                say(f"{done} of {total} episodes recorded{_left(total - done, kept.total(), begun)}; kept: {shares(kept, tried)}.")
            yield outcome


def shares(kept: Mapping[str, int], tried: Mapping[str, int]) -> str:
    """Kept of tried by task, `0 25/25, 1 25/27`."""
    return ", ".join(f"{task} {kept[task]}/{tried[task]}" for task in sorted(tried))


def _left(episodes: int, finished: int, begun: float) -> str:
    """How long the rest will take, once more than the first tells it."""
    if not episodes or finished < 2:
        return ""
    return f", about {rounded(episodes * (time.monotonic() - begun) / (finished - 1))} left"
