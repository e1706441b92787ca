"""How far an evaluation is, while it is played: on stderr, a bar in a terminal, and a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.evaluation.stats import wilson_interval
from vla_tune.evaluation.watcher import Watcher
from vla_tune.printing import rounded
from vla_tune.schema import Observation

_EVERY_S = 30.0
"""Between two lines."""


@dataclass(eq=False)
class Progress:
    """Counts what is over (a `Watcher`), and tells it: how many, the rate so far with Wilson's 95 % interval, and the time left.

    Args:
        total: Episodes.
        done: What was over before.
        tell: Is given the number of episodes that are over, the rate in words, and seconds left.
        clock: Seconds.
    """

    total: int
    done: Sequence[EpisodeRecord]
    tell: Callable[[int, str, float], None]
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began, self._before = self.clock(), len(self.done)
        self._over, self._successes = self._before, sum(record.success for record in self.done)

    def looks(self, episode: int) -> bool:
        """Never."""
        return False

    def see(self, episode: int, observation: Observation) -> None:
        """Looks away."""

    def finish(self, record: EpisodeRecord) -> None:
        """Tells how far it is."""
        self._over, self._successes = self._over + 1, self._successes + record.success
        low, high = wilson_interval(self._successes, self._over)
        rate = f"success {100 * self._successes / self._over:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        each = (self.clock() - self._began) / (self._over - self._before)
        self.tell(self._over, rate, each * (self.total - self._over))


@contextmanager
def progress(title: str, total: int, *, done: Sequence[EpisodeRecord], console: Console | None = None) -> Iterator[Watcher]:
    """A watcher that tells how far `total` episodes are, of which some were `done` before."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Progress(total, done, _Lines(title, total, console))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Bar(*columns, TimeRemainingColumn(), console=console) as bar:
        number = bar.add_task(title, total=total, completed=len(done), rate="")
        yield Progress(total, done, lambda over, rate, left: bar.update(number, completed=over, rate=rate))


@dataclass(eq=False)
class _Lines:
    title: str
    total: int
    console: Console
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._told = self.clock()

    def __call__(self, over: int, rate: str, left_s: float) -> None:
        """A line, unless there was one a moment ago."""
        if self.clock() - self._told < _EVERY_S:
            return
        self._told = self.clock()
        said = f"{self.title}: {over} of {self.total} episodes, {rate}, about {rounded(left_s)} left"
        self.console.print(said, markup=False, highlight=False, soft_wrap=True)
