"""Tasks that are played beside each other, each in processes of its own, while one policy acts for all of them."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import Any

import numpy as np
from jaxtyping import Float

from vla_tune.evaluation.environments import Halt, HaltedError, Separate, Vectorize, fewer_threads
from vla_tune.evaluation.stage import InRows
from vla_tune.schema import Observation, Policy, WatchedPolicy

type Play[T] = Callable[[Vectorize, int, Policy], T]
"""Plays a task, or several cells of it: in environments of this kind, so many of them, by this policy."""


def play_each[T](plays: Sequence[Play[T]], policy: Policy, *, vectorize: Vectorize, num_envs: int) -> list[T]:
    """What plays of tasks lead to, in their order.

    Where environments can live apart, as many tasks are played at once as can each fill a forward pass of the policy with
    `num_envs` environments in all; each has processes that keep its environments from cell to cell, so that a task is built once
    in each. All else is played in turn. An error in one ends all, and is raised.

    Args:
        plays: One for each task.
        policy: Acts for all of them, and only ever in the thread that calls.
        vectorize: The kind of environments.
        num_envs: How many environments there are at once.
    """
    if not isinstance(vectorize, Separate):
        return [play(vectorize, num_envs, policy) for play in plays]
    shares = shared_out(num_envs, len(plays), rows=policy.rows if isinstance(policy, InRows) else 1)
    with fewer_threads(num_envs), ExitStack() as lanes:
        halt = Halt()
        lanes.callback(halt.call)
        apart = [(lanes.enter_context(vectorize.apart(halt)), share) for share in shares]
        if len(apart) == 1:
            return [play(*apart[0], policy) for play in plays]
        return _beside(plays, policy, apart, halt)


def shared_out(num_envs: int, tasks: int, *, rows: int) -> list[int]:
    """How many environments each of the tasks has that are played at once: enough to fill a forward pass of `rows`."""
    count = max(1, min(tasks, num_envs // rows))
    return [num_envs // count + (place < num_envs % count) for place in range(count)]


def _beside[T](plays: Sequence[Play[T]], policy: Policy, lanes: Sequence[tuple[Vectorize, int]], halt: Halt) -> list[T]:
    desk, found = _Desk(policy, halt), dict[int, T]()
    waiting = iter(list(enumerate(plays)))

    def lane(vectorize: Vectorize, num_envs: int) -> None:
        for number, play in waiting:  # threads may share the iterator of a list
            found[number] = play(vectorize, num_envs, desk.asked)

    with ThreadPoolExecutor(len(lanes), thread_name_prefix="task") as threads, closing(desk):
        running = [threads.submit(lane, *one) for one in lanes]
        desk.serve(running)
    failed = [error for one in running if (error := one.exception()) is not None]
    for error in sorted(failed, key=lambda error: isinstance(error, HaltedError)):  # those that were halted come last
        raise error
    return [found[number] for number in range(len(plays))]


class _Desk:
    """Where threads ask the policy, which acts in the one that serves: torch keeps threads, precision and streams for each."""

    def __init__(self, policy: Policy, halt: Halt) -> None:
        self._halt = halt
        self._letters = SimpleQueue[Callable[[], None]]()
        self._open = set[Future[Any]]()
        self.asked = _Asked(policy, self.ask)

    def ask(self, do: Callable[[], Any]) -> Any:
        """What the policy answers.

        Raises:
            HaltedError: it does not act any more.
        """
        answer: Future[Any] = Future()
        self._open.add(answer)
        try:
            if self._halt.called:
                raise HaltedError
            self._letters.put(lambda: self._act(do, answer))
            return answer.result()
        finally:
            self._open.discard(answer)

    def serve(self, running: Sequence[Future[None]]) -> None:
        """Answers until all who ask have ended; once one of them failed, the others end soon."""
        for one in running:
            one.add_done_callback(lambda ended: self._letters.put(lambda: self._end(ended)))
        while not all(one.done() for one in running):
            self._letters.get()()

    def close(self) -> None:
        """Who waits for an answer, or asks from now on, ends."""
        self._halt.call()
        for answer in list(self._open):
            _answer(answer, HaltedError())

    def _act(self, do: Callable[[], Any], answer: Future[Any]) -> None:
        try:
            if self._halt.called:
                raise HaltedError
            answer.set_result(do())
        except Exception as error:
            self._halt.call()
            _answer(answer, error)

    def _end(self, ended: Future[None]) -> None:
        if ended.exception() is not None:
            self._halt.call()


def _answer(answer: Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class _Asked:
    """The policy, for another thread (`WatchedPolicy`, `InRows`)."""

    def __init__(self, policy: Policy, ask: Callable[[Callable[[], Any]], Any]) -> None:
        self._policy, self._ask = policy, ask
        self.rows = policy.rows if isinstance(policy, InRows) else 1

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """What it answers."""
        return self._ask(lambda: self._policy.act(observations))

    def outside_mass(self, observations: Sequence[Observation]) -> Float[np.ndarray, " N"] | None:
        """What it answers, where it says that at all."""
        policy = self._policy
        return self._ask(lambda: policy.outside_mass(observations)) if isinstance(policy, WatchedPolicy) else None

    def reset(self) -> None:
        """Nothing: it acts in several episodes at once, as every policy of an evaluation does, and keeps nothing of one."""
