"""One thread for the policy: the newest observation wins, and who waits together shares a pass."""

import asyncio
import threading

import numpy as np
import pytest

from vla_tune.schema import Observation
from vla_tune.serving.worker import RefusedError, Worker


def seen(number: int) -> Observation:
    return Observation({}, np.array([number], np.float32), "touch the red block")


class Policy:
    """Answers with what it saw; the first pass waits until it is told to go on."""

    def __init__(self) -> None:
        self.passes: list[list[float]] = []
        self.go, self.busy = threading.Event(), threading.Event()

    def __call__(self, observations, names):
        self.passes.append([float(observation.state[0]) for observation in observations])
        self.busy.set()
        self.go.wait(60)
        if any(observation.state[0] < 0 for observation in observations):
            raise ValueError("a negative state")
        return [np.full((2, 1), observation.state[0]) for observation in observations]


def run(scenario, *, rows: int = 4, **options) -> Policy:
    policy = Policy()

    async def main() -> None:
        worker = Worker(policy, rows=rows, **({"seconds": 60.0} | options))
        try:
            await asyncio.wait_for(scenario(worker, policy), 60)
        finally:
            policy.go.set()
            await worker.close()

    asyncio.run(main())
    return policy


async def occupied(worker: Worker, policy: Policy) -> asyncio.Future:
    """A pass that is under way."""
    task = worker.reply("first", seen(0), "a")
    assert await asyncio.to_thread(policy.busy.wait, 60)
    return task


def test_who_waits_together_shares_a_pass_and_gets_its_own_actions():
    async def scenario(worker, policy):
        first = await occupied(worker, policy)
        others = [worker.reply(client, seen(client), "a") for client in range(1, 7)]
        policy.go.set()
        replies = await asyncio.gather(first, *others)
        assert [reply.actions[0, 0] for reply in replies] == list(range(7))
        assert [reply.batch for reply in replies] == [1, 4, 4, 4, 4, 2, 2]

    assert run(scenario).passes == [[0], [1, 2, 3, 4], [5, 6]]


def test_the_newest_observation_of_a_client_wins():
    async def scenario(worker, policy):
        await occupied(worker, policy)
        older = worker.reply("robot", seen(1), "a")
        newer = worker.reply("robot", seen(2), "a")
        policy.go.set()
        assert (await newer).actions[0, 0] == 2
        with pytest.raises(RefusedError, match="a newer observation of this client"):
            await older

    assert run(scenario).passes == [[0], [2]]


def test_a_late_observation_is_not_acted_on():
    now = [0.0]

    async def scenario(worker, policy):
        await occupied(worker, policy)
        late = worker.reply("robot", seen(1), "a")
        now[0] = 0.06
        policy.go.set()
        with pytest.raises(RefusedError, match=r"waited longer than 0.05 s"):
            await late

    assert run(scenario, seconds=0.05, clock=lambda: now[0]).passes == [[0]]


def test_a_bad_observation_harms_its_own_client_only():
    async def scenario(worker, policy):
        first = await occupied(worker, policy)
        bad, good = (worker.reply(client, seen(client), "a") for client in (-1, 1))
        policy.go.set()
        assert (await good).actions[0, 0] == 1
        with pytest.raises(ValueError, match="a negative state"):
            await bad
        assert (await first).batch == 1
        assert (await worker.reply("after", seen(5), "a")).actions[0, 0] == 5

    run(scenario)


def test_when_it_stops_who_waits_is_told():
    waiting: list[asyncio.Future] = []

    async def scenario(worker, policy):
        await occupied(worker, policy)
        waiting.append(worker.reply("robot", seen(1), "a"))
        assert worker.waiting == 1

    run(scenario)
    with pytest.raises(RefusedError, match="the server stops"):
        raise waiting[0].exception() or AssertionError


def test_of_a_client_that_has_gone_nothing_is_acted_on():
    async def scenario(worker, policy):
        first = await occupied(worker, policy)
        worker.reply("robot", seen(1), "a")
        worker.forget("robot")
        policy.go.set()
        await first
        assert (await worker.reply("other", seen(2), "a")).batch == 1

    assert run(scenario).passes == [[0], [2]]


def test_more_late_ones_than_a_pass_holds_do_not_stop_the_others():
    now = [0.0]

    async def main() -> None:
        policy = Policy()
        worker = Worker(policy, rows=2, seconds=1.0, clock=lambda: now[0])
        await occupied(worker, policy)
        late = [worker.reply(client, seen(client), "a") for client in range(1, 5)]
        now[0] = 2.0
        fresh = worker.reply(9, seen(9), "a")
        policy.go.set()
        assert (await asyncio.wait_for(fresh, 60)).actions[0, 0] == 9
        assert all(isinstance(future.exception(), RefusedError) for future in late)
        await worker.close()

    asyncio.run(main())


def test_a_policy_that_answers_too_little_is_a_failure_and_not_the_end():
    async def main() -> None:
        worker = Worker(lambda observations, names: [], rows=2, seconds=1.0)
        for _ in range(2):
            with pytest.raises(ValueError, match="zip"):
                await asyncio.wait_for(worker.reply(1, seen(1), "a"), 60)
        await worker.close()

    asyncio.run(main())


def test_after_the_end_nobody_is_kept_waiting():
    async def main() -> None:
        worker = Worker(lambda observations, names: [], rows=2, seconds=1.0)
        await worker.close()
        with pytest.raises(RefusedError, match="the server stops"):
            await worker.reply(1, seen(1), "a")

    asyncio.run(main())


class Panic(BaseException):
    """As libraries in Rust raise it: no Exception."""


def test_a_panic_of_a_library_is_a_failure_and_not_the_end():
    async def main() -> None:
        def act(observations, names):
            if observations[0].state[0] == 1:
                raise Panic("index out of bounds")
            return [np.zeros((2, 1))]

        worker = Worker(act, rows=1, seconds=1.0)
        with pytest.raises(RuntimeError, match="Panic: index out of bounds"):
            await asyncio.wait_for(worker.reply(1, seen(1), "a"), 60)
        assert (await asyncio.wait_for(worker.reply(1, seen(2), "a"), 60)).batch == 1
        await worker.close()

    asyncio.run(main())


def test_what_waited_for_a_change_is_late_too():
    now = [0.0]

    async def main() -> None:
        begun, go = threading.Event(), threading.Event()
        worker = Worker(lambda observations, names: [np.zeros((2, 1))], rows=1, seconds=1.0, clock=lambda: now[0])

        def changing() -> bool:
            begun.set()
            return go.wait(60)

        change = asyncio.create_task(worker.between(changing))
        assert await asyncio.to_thread(begun.wait, 60)
        behind = worker.reply(1, seen(1), "a")
        now[0] = 2.0
        go.set()
        with pytest.raises(RefusedError, match=r"waited longer than 1 s"):
            await asyncio.wait_for(behind, 60)
        await change
        await worker.close()

    asyncio.run(main())


def test_a_change_returns_what_it_made_or_raises_what_it_met():
    async def main() -> None:
        worker = Worker(lambda observations, names: [], rows=1, seconds=1.0)
        assert await worker.between(lambda: threading.current_thread().name) == "inference"
        for error, raised in ((ValueError("no such run"), ValueError), (Panic("gone"), RuntimeError)):
            with pytest.raises(raised, match=r"no such run|Panic: gone"):
                await worker.between(lambda error=error: (_ for _ in ()).throw(error))
        await worker.close()
        with pytest.raises(RefusedError, match="the server stops"):
            await worker.between(lambda: None)

    asyncio.run(main())
