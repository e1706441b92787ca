"""Tasks are played beside each other, and nobody can tell by what comes of it."""

import os
import threading
from contextlib import closing, contextmanager
from functools import partial

import gymnasium
import pytest

from vla_tune.evaluation import in_processes, in_turn, rollout
from vla_tune.evaluation.beside import play_each, shared_out
from vla_tune.evaluation.environments import Halt, HaltedError
from vla_tune.execution import OpenLoop
from vla_tune.workers.shelf import Shelf

TASKS = [f"walk_{number}" for number in range(5)]


class Apart:
    """Environments of this process, each task in a thread; `begun` is told of each pool."""

    def __init__(self):
        self.opened, self.closed, self.halts = 0, 0, []

    def __call__(self, *arguments):
        return in_turn(*arguments)

    @contextmanager
    def apart(self, halt):
        self.opened += 1
        self.halts.append(halt)
        try:
            yield in_turn
        finally:
            self.closed += 1


@pytest.fixture
def played(walker, line, body):
    def play(vectorize, *, num_envs=3, between=lambda task: None, make_env=line):
        def of(task, vectorize, num_envs, policy):
            between(task)
            asked = {"suite": "line", "embodiment": body, "num_envs": num_envs, "execution": OpenLoop(), "vectorize": vectorize}
            with Shelf(make_env) as shelf:
                return [rollout(policy, shelf, task=task, episodes=4, seed=seed, **asked) for seed in (0, 1)]

        return play_each([partial(of, task) for task in TASKS], walker, vectorize=vectorize, num_envs=num_envs)

    return play


@pytest.mark.parametrize(
    ("num_envs", "tasks", "rows", "shares"),
    [
        (2, 10, 1, [1, 1]),
        (7, 3, 1, [3, 2, 2]),
        (8, 10, 4, [4, 4]),
        (4, 10, 8, [4]),
        (25, 1, 1, [25]),
        (1, 10, 1, [1]),
    ],
)
def test_as_many_tasks_are_played_at_once_as_can_each_fill_a_forward_pass(num_envs, tasks, rows, shares):
    assert shared_out(num_envs, tasks, rows=rows) == shares


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tables_are_those_of_one_task_after_the_other(played, walker, rows):
    acted_in, act = set(), walker.act
    walker.act = lambda seen: (acted_in.add(threading.current_thread()), act(seen))[1]
    alone = played(in_turn)
    walker.rows = rows
    apart = Apart()
    assert played(apart) == alone
    assert [records[0][0].task for records in alone] == TASKS
    assert apart.opened == apart.closed == 3 // rows
    assert acted_in == {threading.main_thread()}


def test_tasks_are_played_at_once(played):
    met = threading.Barrier(2)  # who is alone waits in vain
    assert len(played(Apart(), num_envs=2, between=lambda task: met.wait(timeout=60) if task in TASKS[:4] else None)) == 5


def test_an_error_in_one_ends_all(played, walker):
    begun = []

    def between(task):
        begun.append(task)
        if task == TASKS[1]:
            raise ValueError("it broke down")

    apart = Apart()
    with pytest.raises(ValueError, match="it broke down"):
        played(apart, num_envs=2, between=between)
    assert apart.opened == apart.closed == 2
    assert apart.halts[0].called
    assert len(begun) < 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("NaN")])
def test_what_ends_the_policy_ends_all(played, walker, error):
    asked, act = [], walker.act

    def tired(seen):
        asked.append(seen)
        if len(asked) > 3:
            raise error
        return act(seen)

    walker.act = tired
    apart = Apart()
    before = threading.active_count()
    with pytest.raises(error if isinstance(error, type) else type(error)):
        played(apart, num_envs=3)
    assert len(asked) == 4
    assert apart.opened == apart.closed == 3
    assert threading.active_count() == before


def test_evaluations_in_turn_are_those_of_new_environments(walker, line, body):
    play = partial(rollout, walker, suite="line", task="walk", episodes=4, embodiment=body, num_envs=2, execution=OpenLoop())
    with Shelf(line) as shelf:
        found = [play(make, seed=seed) for seed in (0, 1) for make in (shelf, line)]
    assert found[0] == found[1] != found[2] == found[3]


def making(log: str, failing: str | None = None):
    """A maker, which a process that cannot import the tests can have: it notes who made an environment."""

    def make(task):
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {task}\n")
        env = gymnasium.make("envs:vla_tune/Tabletop-v0", task="touch", cameras={"front": (64, 64)}, disable_env_checker=True)
        if task == failing:

            class Failing(gymnasium.Wrapper):
                def step(self, action):
                    os._exit(7)

            return Failing(env)
        return env

    return make


@pytest.mark.slow  # processes of their own
def test_each_task_is_made_once_in_one_process(chaotic, body, tmp_path):
    log = tmp_path / "made"

    def of(make, task, vectorize, num_envs, policy):
        asked = {"suite": "s", "task": task, "episodes": 2, "embodiment": body, "num_envs": num_envs, "execution": OpenLoop()}
        with Shelf(partial(make, task)) as shelf:
            return [rollout(policy, shelf, seed=seed, vectorize=vectorize, **asked) for seed in (0, 1, 2)]

    def play(vectorize, make):
        return play_each([partial(of, make, task) for task in TASKS], chaotic, vectorize=vectorize, num_envs=2)

    alone = play(in_turn, making(str(tmp_path / "here")))
    assert play(in_processes, making(str(log))) == alone
    made = [line.split() for line in log.read_text().splitlines()]
    assert sorted(task for _, task in made) == TASKS
    assert len({process for process, _ in made}) == 2
    assert str(os.getpid()) not in {process for process, _ in made}
    with pytest.raises(ChildProcessError, match=r"process ended \(exit code 7\)"):
        play(in_processes, making(str(log), failing=TASKS[1]))


@pytest.mark.slow  # a process of its own
def test_who_waits_for_a_process_is_halted(body):
    halt = Halt()
    with in_processes.apart(halt) as vectorize, closing(vectorize(partial(making(os.devnull), TASKS[0]), 1, body)) as pool:
        pool.ask(0, "begin", seed=1, episode=0, look=True)
        halt.call()
        with pytest.raises(HaltedError):
            pool.answers()
