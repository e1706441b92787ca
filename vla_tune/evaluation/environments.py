"""The environments of an evaluation: several beside each other, in this process or each in its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any, Protocol, runtime_checkable

import torch

from vla_tune.schema import Embodiment, to_record
from vla_tune.workers import About, Behind, Process, Start, Tick, Worker
from vla_tune.workers.idle import IDLE, Idle
from vla_tune.workers.shelf import MakeEnv


@runtime_checkable
class Pool(Protocol):
    """Environments that are told what to do and answer when they have done it (the verbs of `vla_tune.workers.Worker`)."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def about(self) -> About:
        """What they say of themselves."""
        ...

    def behind(self) -> Behind:
        """What code is behind the first."""
        ...

    def start(self, *, seed: int, episode: int) -> Start:
        """How an episode begins in the first."""
        ...

    def ask(self, row: int, verb: str, **arguments: Any) -> None:
        """Tell environment `row` to `begin` or to `play`; it must have answered what it was told before."""
        ...

    def answers(self) -> dict[int, list[Tick]]:
        """By row, what those answer that are ready; waits until there is one of those that were told something."""
        ...

    def close(self) -> None:
        """Close all of them."""
        ...


Vectorize = Callable[[MakeEnv, int, Embodiment], Pool]


class HaltedError(Exception):
    """Environments that are waited for in one thread are given up, for something failed in another."""


class Halt:
    """Ends the waiting for environments in other threads."""

    def __init__(self) -> None:
        self.connection, self._theirs = Pipe(duplex=False)

    def call(self) -> None:
        """From now on who waits, or begins to, is told `HaltedError`."""
        self._theirs.close()

    @property
    def called(self) -> bool:
        """Whether it was."""
        return self._theirs.closed


@runtime_checkable
class Separate(Protocol):
    """A `Vectorize` that can keep processes apart, so that several threads can each have some of their own."""

    def apart(self, halt: Halt) -> AbstractContextManager[Vectorize]:
        """In this block, environments live in processes that serve nobody else, with what they have on a `Shelf`."""
        ...


class _InTurn:
    def __init__(self, make_env: MakeEnv, count: int, embodiment: Embodiment) -> None:
        self._asked: dict[int, Callable[[], list[Tick]]] = {}
        with ExitStack() as made:
            self._workers = [made.enter_context(closing(Worker(make_env, embodiment))) for _ in range(count)]
            self._made = made.pop_all()

    @property
    def size(self) -> int:
        return len(self._workers)

    def about(self) -> About:
        return self._workers[0].about()

    def behind(self) -> Behind:
        return self._workers[0].behind()

    def start(self, *, seed: int, episode: int) -> Start:
        return self._workers[0].start(seed=seed, episode=episode)

    def ask(self, row: int, verb: str, **arguments: Any) -> None:
        self._asked[row] = lambda: getattr(self._workers[row], verb)(**arguments)

    def answers(self) -> dict[int, list[Tick]]:
        asked, self._asked = self._asked, {}
        return {row: do() for row, do in asked.items()}

    def close(self) -> None:
        self._made.close()


class _InProcesses:
    def __init__(
        self,
        make_env: MakeEnv,
        count: int,
        embodiment: Embodiment,
        *,
        idle: Idle,
        ending: str,
        halt: Halt,
        around: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        record = to_record(embodiment)
        self._idle, self._ending, self._halt = idle, ending, halt
        self._asked: set[int] = set()
        with ExitStack() as made:
            made.enter_context(around(count))
            self._processes = [self._taken(made) for _ in range(count)]
            for row, process in enumerate(self._processes):
                process.make(make_env, embodiment=record)
                self._asked.add(row)
            while self._asked:
                self._ready()
            self._made = made.pop_all()

    @property
    def size(self) -> int:
        return len(self._processes)

    def about(self) -> About:
        return About.of(self._told("about"))

    def behind(self) -> Behind:
        return Behind(**self._told("behind"))

    def start(self, *, seed: int, episode: int) -> Start:
        return Start(**self._told("start", seed=seed, episode=episode))

    def ask(self, row: int, verb: str, **arguments: Any) -> None:
        self._processes[row].ask(verb, arguments)
        self._asked.add(row)

    def answers(self) -> dict[int, list[Tick]]:
        return {row: [Tick.of(plain) for plain in answer] for row, answer in self._ready().items()}

    def _told(self, verb: str, **arguments: Any) -> Any:
        """What the first answers, while none is at work."""
        self.ask(0, verb, **arguments)
        return self._ready()[0]

    def _ready(self) -> dict[int, Any]:
        waiting = {self._processes[row].connection: row for row in sorted(self._asked)}
        found = wait([*waiting, self._halt.connection])
        if self._halt.connection in found:
            raise HaltedError
        ready = sorted(waiting[connection] for connection in found)  # pyright: ignore[reportArgumentType] (ours alone)
        return {row: self._answer(row) for row in ready}

    def _answer(self, row: int) -> Any:
        """Of one that raised, there is no other word: it is not given back."""
        answer = self._processes[row].answer()
        self._asked.remove(row)
        return answer

    def close(self) -> None:
        """Those that are at work, or failed, are ended; the others may serve again."""
        for process in self._processes if self._asked else []:
            process.hang_up()
        self._made.close()

    def _taken(self, made: ExitStack) -> Process:
        process = self._idle.take()
        made.callback(self._leave, process)
        return process

    def _leave(self, process: Process) -> None:
        if self._asked:
            process.close()
        else:
            self._idle.give(process, ending=self._ending)


@dataclass(frozen=True)
class InProcesses:
    """Environments each in a fresh process of its own: some step and draw while the policy acts for others (a `Vectorize`).

    `play_each` plays several tasks at once in such processes.
    """

    def __call__(self, make_env: MakeEnv, count: int, embodiment: Embodiment) -> Pool:
        """Until they are closed torch has as many threads fewer, of at least one."""
        return _InProcesses(make_env, count, embodiment, idle=IDLE, ending="clear", halt=Halt(), around=fewer_threads)

    @contextmanager
    def apart(self, halt: Halt) -> Iterator[Vectorize]:
        """Afterwards their processes wait for the next environments of the program."""
        own = Idle()
        try:
            yield partial(_InProcesses, idle=own, ending="close", halt=halt, around=lambda count: nullcontext())
            own.hand_over(IDLE)
        finally:
            own.leave()


in_processes = InProcesses()


@contextmanager
def fewer_threads(count: int) -> Iterator[None]:
    """In this block torch leaves cores to `count` processes: OpenMP's threads wait for each other where others have their cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - count))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_turn(make_env: MakeEnv, count: int, embodiment: Embodiment) -> Pool:
    """`count` environments in this process, one after the other."""
    return _InTurn(make_env, count, embodiment)
