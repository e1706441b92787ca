"""How far an evaluation is, while it is played: on stderr, a bar in a terminal, and a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.evaluation.stats import wilson_interval
from vla_tune.evaluation.watcher import NOBODY, Watcher
from vla_tune.printing import rounded
from vla_tune.schema import Observation

_EVERY_S = 30.0
"""Between two lines."""
Tell = Callable[[int, int, str, float | None], None]
"""Is given the number of episodes that are over, and of all, the rate in words, and seconds left once something was played."""


@runtime_checkable
class Telling(Protocol):
    """Tells how far a policy is on a task."""

    def __call__(self, policy: str, task: str, total: int, *, done: Sequence[EpisodeRecord]) -> AbstractContextManager[Watcher]:
        """A watcher of the episodes that are played of `total`, of which some, or all, were `done` before."""
        ...


class Progress:
    """Counts what is over, and tells it: how many, a rate so far with Wilson's 95 % interval, and the time left.

    Args:
        total: Episodes.
        tell: Is told.
        clock: Seconds.
    """

    def __init__(self, total: int, tell: Tell, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._tell, self._clock, self._began = total, tell, clock, clock()
        self._over = self._played = self._rated = self._successes = 0
        self._lock = Lock()  # tasks may be played in several threads

    def skip(self, episodes: int) -> None:
        """So many are not to be played after all."""
        with self._lock:
            self._total -= episodes

    def know(self, records: Sequence[EpisodeRecord], *, rated: bool = True) -> None:
        """These were over before."""
        with self._lock:
            for record in records:
                self._count(record, rated)
            self._say()

    def watcher(self, *, rated: bool = True) -> Watcher:
        """Sees episodes end; those that are `rated` are those whose rate is told."""
        return _Ending(lambda record: self._finish(record, rated))

    def _finish(self, record: EpisodeRecord, rated: bool) -> None:
        with self._lock:
            self._count(record, rated)
            self._played += 1
            self._say()

    def _say(self) -> None:
        each = (self._clock() - self._began) / self._played if self._played else None
        self._tell(self._over, self._total, self._rate, None if each is None else each * (self._total - self._over))

    def _count(self, record: EpisodeRecord, rated: bool) -> None:
        self._over += 1
        self._rated += rated
        self._successes += rated and record.success

    @property
    def _rate(self) -> str:
        if not self._rated:
            return ""
        low, high = wilson_interval(self._successes, self._rated)
        return f"success {100 * self._successes / self._rated:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


@dataclass(frozen=True)
class _Ending:
    then: Callable[[EpisodeRecord], None]

    def looks(self, episode: int) -> bool:
        """Never."""
        return False

    def see(self, episode: int, observation: Observation) -> None:
        """Looks away."""

    def finish(self, record: EpisodeRecord) -> None:
        """Tells how far it is."""
        self.then(record)


@contextmanager
def progress(
    policy: str, task: str, total: int, *, done: Sequence[EpisodeRecord], console: Console | None = None
) -> Iterator[Watcher]:
    """A bar or lines of a policy on one task (`Telling`)."""
    if len(done) == total:
        yield NOBODY
        return
    with shown(f"{policy} on {task}", total, console=console) as far:
        far.know(done)
        yield far.watcher()


@contextmanager
def shown(title: str, total: int, *, console: Console | None = None) -> Iterator[Progress]:
    """A bar or lines about `total` episodes."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Progress(total, _Lines(title, console))
        return
    words = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "left")]
    with Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *words, console=console) as bar:
        number = bar.add_task(title, total=total, rate="", left="")
        yield Progress(
            total, lambda over, total, rate, left: bar.update(number, completed=over, total=total, rate=rate, left=_left(left))
        )


@contextmanager
def over_tasks(policy: str, tasks: int, total: int, *, console: Console | None = None) -> Iterator["OverTasks"]:
    """One bar, or lines, about a policy on several tasks, with what is tried beside it."""
    with shown(f"{policy} on {tasks} tasks", total, console=console) as far:
        yield OverTasks(policy, far)


@dataclass(frozen=True)
class OverTasks:
    """Episodes of all tasks are counted, also those in which something is taken away; the rate is the policy's own (`Telling`)."""

    policy: str
    far: Progress

    @contextmanager
    def __call__(self, policy: str, task: str, total: int, *, done: Sequence[EpisodeRecord]) -> Iterator[Watcher]:
        """Those of one policy on one task."""
        rated = policy == self.policy
        self.far.know(done, rated=rated)
        yield self.far.watcher(rated=rated)


class _Lines:
    def __init__(self, title: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._console, self._clock, self._told = title, console, clock, clock()

    def __call__(self, over: int, total: int, rate: str, left_s: float | None) -> None:
        """A line, unless there was one a moment ago."""
        if left_s is None or self._clock() - self._told < _EVERY_S:
            return
        self._told = self._clock()
        said = ", ".join(part for part in (f"{self._title}: {over} of {total} episodes", rate, _left(left_s)) if part)
        self._console.print(said, markup=False, highlight=False, soft_wrap=True)


def _left(left_s: float | None) -> str:
    return "" if left_s is None else f"about {rounded(left_s)} left"
