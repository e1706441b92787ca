"""Who records: this process, or several, each with one environment at a time."""

import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import gymnasium
import numpy as np

from vla_tune.environment import beside_stored
from vla_tune.evaluation.fit import check_actions, check_rate
from vla_tune.record.episode import Done, Environment, Expert, rollout
from vla_tune.record.noise import Disturbing
from vla_tune.record.shards import Shelf
from vla_tune.schema import Embodiment

ATTEMPTS = 10
"""For each episode, until the expert is given up on its task."""
_WORTH_BUILDING = 3
"""Episodes of a task that must be left for a second environment of it to be made."""
_TO_END_S = 5.0


@dataclass(frozen=True)
class Work:
    """What is recorded; an episode follows from the seed, its task, its number and the attempt, whoever plays it."""

    make: Callable[..., gymnasium.Env]
    """Makes the environment of a `task`."""
    expert: Expert
    body: Embodiment
    seed: int
    noise: Disturbing
    shelf: Shelf


Wanted = Mapping[str, Sequence[int]]
"""Task -> its episodes that are to be recorded."""


class Player:
    """Plays episodes, and stores those that succeed; the environment of the last task is kept."""

    def __init__(self, work: Work) -> None:
        self._work, self._task = work, None
        self._env: Environment | None = None

    def __call__(self, task: str, episode: int) -> Done:
        """One of them.

        Raises:
            ValueError: the environment does not fit the robot.
            OSError: the disk is full.
        """
        work, env = self._work, self._of(task)
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([work.seed, _number_of(task), episode, attempt])
            options = {"task": task, **beside_stored(env.metadata)}
            try:
                found = rollout(env, work.expert, body=work.body, noise=work.noise, rng=rng, options=options)
            except ValueError as error:
                raise ValueError(f"task {task}, episode {episode}: {error}") from error
            if found is not None:
                work.shelf.put(task, episode, found, body=work.body, failed=attempt)
                return Done(task, episode, attempt, kept=True)
        return Done(task, episode, ATTEMPTS, kept=False)

    def close(self) -> None:
        """Closes the environment."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _of(self, task: str) -> Environment:
        if self._env is None or task != self._task:
            self.close()
            self._env, self._task = self._work.make(task=task), task
            check_actions(self._env.action_space.shape, self._work.body)
            check_rate(self._env.metadata, self._work.body)
        return self._env


def _number_of(task: str) -> int:
    return int.from_bytes(sha256(task.encode()).digest()[:8], "big")


class _Deal:
    """Deals episodes out: a worker stays with its task, then takes one that nobody has, then helps where most is left."""

    def __init__(self, wanted: Wanted) -> None:
        self._left = {task: deque(episodes) for task, episodes in wanted.items() if episodes}
        self._at: Counter[str] = Counter()

    def next(self, task: str | None) -> tuple[str, int] | None:
        """The next episode for a worker that has the environment of `task`; None if there is nothing worth doing."""
        if task is None or task not in self._left:
            task = self._another(task)
        if task is None:
            return None
        episode = self._left[task].popleft()
        if not self._left[task]:
            del self._left[task]
        return task, episode

    def drop(self, task: str) -> None:
        """No more of it."""
        self._left.pop(task, None)

    def _another(self, before: str | None) -> str | None:
        if before is not None:
            self._at[before] -= 1
        free = [task for task in self._left if not self._at[task]]
        crowded = [task for task, left in self._left.items() if len(left) >= _WORTH_BUILDING]
        task = free[0] if free else max(crowded, key=lambda task: len(self._left[task]), default=None)
        if task is not None:
            self._at[task] += 1
        return task


def in_this_process(work: Work, wanted: Wanted) -> Iterator[Done]:
    """Records one episode after the other."""
    deal, task = _Deal(wanted), None
    with closing(Player(work)) as play:
        while (given := deal.next(task)) is not None:
            done = play(*given)
            task = done.task
            if not done.kept:
                deal.drop(task)
            yield done


def in_processes(work: Work, wanted: Wanted, *, workers: int) -> Iterator[Done]:
    """Shares the episodes out to fresh processes, which end with this one.

    Raises:
        ValueError: what they need cannot be handed to them, or one of them refused it.
        OSError: one of them could not write.
        ChildProcessError: one of them ended by itself.
    """
    deal, crew = _Deal(wanted), dict[Connection, BaseProcess]()
    try:
        while len(crew) < workers and (given := deal.next(None)) is not None:
            connection, process = _started(work)
            crew[connection] = process
            connection.send(given)
        while crew:
            for ready in wait(list(crew)):
                assert isinstance(ready, Connection)
                done = _received(ready, crew[ready])
                if not done.kept:
                    deal.drop(done.task)
                _go_on(ready, deal.next(done.task), crew)
                yield done
    finally:
        for process in crew.values():
            process.terminate()
            process.join()


def _started(work: Work) -> tuple[Connection, BaseProcess]:
    context = get_context("spawn")  # a forked one could not use its parent's OpenGL
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work), name="recorder")
    try:
        process.start()
    except Exception as error:  # pickle's are of many kinds
        raise ValueError(f"environment or expert cannot be handed to another process ({error}): say workers=1.") from None
    there.close()
    return here, process


def _go_on(connection: Connection, given: tuple[str, int] | None, crew: dict[Connection, BaseProcess]) -> None:
    try:
        connection.send(given)
    except ConnectionError:  # it ended once it had answered
        raise _ended(crew[connection]) from None
    if given is None:
        process = crew.pop(connection)
        process.join(_TO_END_S)
        process.terminate()  # whose environment does not close
        connection.close()


def _received(connection: Connection, process: BaseProcess) -> Done:
    try:
        said = connection.recv()
    except (EOFError, ConnectionError):
        raise _ended(process) from None
    if isinstance(said, Exception):
        raise said
    return said


def _ended(process: BaseProcess) -> ChildProcessError:
    process.join(_TO_END_S)
    return ChildProcessError(
        f"a process that records ended (exit code {process.exitcode}) without a word: look at what it printed, and at its memory "
        "(recording.workers says how many there are). What is finished is kept; start again to go on."
    )


def _serve(connection: Connection, work: Work) -> None:
    """What a process does: plays what it is given until there is nothing left, or nobody to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends it
    try:
        with closing(Player(work)) as play:
            while (given := connection.recv()) is not None:
                connection.send(play(*given))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(1)
    except (ValueError, OSError) as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))
