"""The environments of an evaluation: several beside each other, in this process or each in its own."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch

from vla_tune.schema import Embodiment, same_rate, to_record
from vla_tune.workers import About, Process, Tick, Worker
from vla_tune.workers.idle import give, take

MakeEnv = Callable[[], gymnasium.Env]


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


class _InTurn:
    def __init__(self, make_env: MakeEnv, count: int, embodiment: Embodiment) -> None:
        self._asked: dict[int, Callable[[], list[Tick]]] = {}
        with ExitStack() as made:
            self._workers = [_kept(made, Worker(make_env, embodiment)) for _ in range(count)]
            self._made = made.pop_all()

    @property
    def size(self) -> int:
        return len(self._workers)

    def about(self) -> About:
        return self._workers[0].about()

    def ask(self, row: int, verb: str, **arguments: Any) -> None:
        self._asked[row] = lambda: getattr(self._workers[row], verb)(**arguments)

    def answers(self) -> dict[int, list[Tick]]:
        asked, self._asked = self._asked, {}
        return {row: do() for row, do in asked.items()}

    def close(self) -> None:
        self._made.close()


class _InProcesses:
    def __init__(self, make_env: MakeEnv, count: int, embodiment: Embodiment) -> None:
        record = to_record(embodiment)
        self._asked: set[int] = set()
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads - count))  # OpenMP's wait for each other where others have their cores
        with ExitStack() as made:
            made.callback(torch.set_num_threads, self._threads)
            self._processes = [_kept(made, take()) for _ in range(count)]
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
        self._processes[0].ask("about", {})
        return About.of(self._processes[0].answer())

    def ask(self, row: int, verb: str, **arguments: Any) -> None:
        self._processes[row].ask(verb, arguments)
        self._asked.add(row)

    def answers(self) -> dict[int, list[Tick]]:
        return {row: [Tick.of(plain) for plain in answer] for row, answer in self._ready().items()}

    def _ready(self) -> dict[int, Any]:
        waiting = {self._processes[row].connection: row for row in sorted(self._asked)}
        ready = sorted(waiting[connection] for connection in wait(list(waiting)))  # pyright: ignore[reportArgumentType] (ours alone)
        return {row: self._answer(row) for row in ready}

    def _answer(self, row: int) -> Any:
        """Of one that raised, there is no other word: it is not given back."""
        answer = self._processes[row].answer()
        self._asked.remove(row)
        return answer

    def close(self) -> None:
        """Those that are at work, or failed, are ended; the others may serve again."""
        torch.set_num_threads(self._threads)
        if self._asked:
            for process in self._processes:
                process.hang_up()
            self._made.close()
        else:
            self._made.pop_all()
            for process in self._processes:
                try:
                    give(process)
                except (ValueError, RuntimeError, ChildProcessError):  # it does not close, but has done its work
                    process.close()


def _kept[T: Worker | Process](made: ExitStack, one: T) -> T:
    made.callback(one.close)
    return one


def in_turn(make_env: MakeEnv, count: int, embodiment: Embodiment) -> Pool:
    """`count` environments in this process, one after the other."""
    return _InTurn(make_env, count, embodiment)


def in_processes(make_env: MakeEnv, count: int, embodiment: Embodiment) -> Pool:
    """`count` environments, each in a fresh process of its own: some step and draw while the policy acts for others.

    Until they are closed torch has as many threads fewer, of at least one.
    """
    return _InProcesses(make_env, count, embodiment)


def check_fit(about: About, embodiment: Embodiment) -> None:
    """Refuse an environment whose actions, or whose rate, are not the embodiment's."""
    check_actions(None if about.shape is None else tuple(about.shape), embodiment)
    check_rate({} if about.control_hz is None else {"control_hz": about.control_hz}, embodiment)


def check_actions(shape: tuple[int, ...] | None, embodiment: Embodiment) -> None:
    """Refuse actions of another shape than the embodiment's."""
    if shape != (embodiment.action_dimension,):
        raise ValueError(
            f"the environment takes actions {shape}, {embodiment.name!r} has {embodiment.action_dimension} dimensions: the policy "
            "belongs to another robot."
        )


def check_rate(metadata: Mapping[str, Any], embodiment: Embodiment) -> None:
    """Refuse an environment that says that it acts at another rate (`metadata["control_hz"]`); most say nothing."""
    rate = metadata.get("control_hz")
    if isinstance(rate, int | float) and not same_rate(float(rate), embodiment.control_hz):
        raise ValueError(f"the environment acts at {rate:g} Hz, {embodiment.name!r} at {embodiment.control_hz:g} Hz.")


def check_seeding(pool: Pool, seed: int) -> None:
    """Refuse environments that start differently from the same seed (pictures aside: a GPU may draw them with some noise)."""
    first, again = (_begun(pool, seed) for _ in range(2))
    for one in (*first.values(), *again.values()):
        if not np.array_equal(one.seen.state, first[0].seen.state) or one.seen.instruction != first[0].seen.instruction:
            raise ValueError("the environment starts differently from the same seed: make reset(seed=...) decide everything.")


def _begun(pool: Pool, seed: int) -> dict[int, Tick]:
    begun: dict[int, Tick] = {}
    for row in range(pool.size):
        pool.ask(row, "begin", seed=seed, episode=0, look=False)
    while len(begun) < pool.size:
        begun |= {row: ticks[0] for row, ticks in pool.answers().items()}
    return begun
