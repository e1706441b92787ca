"""An environment in a process of its own; each of these tests starts one or two."""

import os
import subprocess
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch

from vla_tune.evaluation import in_processes
from vla_tune.schema import to_record
from vla_tune.workers import Process, Tick, Worker
from vla_tune.workers.idle import IDLE

TABLETOP = partial(gymnasium.make, "envs:vla_tune/Tabletop-v0", task="touch", cameras={"front": (64, 64)})


def test_a_process_imports_no_torch():
    heavy = "('torch', 'hydra', 'omegaconf', 'pyarrow', 'rich')"
    code = f"import sys, vla_tune.workers.child, vla_tune.run.ablations; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "[]\n"


@pytest.mark.slow  # a process of its own
def test_every_frame_is_that_of_a_solo_run(tiny_contract):
    body = tiny_contract.embodiment
    process, worker = Process(), Worker(TABLETOP, body)
    try:
        process.make(TABLETOP, embodiment=to_record(body))
        assert process.answer() is None
        for episode in range(2):
            asked = {"seed": 7 + episode, "episode": episode, "look": True}
            process.ask("begin", asked)
            assert_same([Tick.of(plain) for plain in process.answer()], worker.begin(**asked))
            actions = np.random.default_rng(episode).uniform(-0.03, 0.03, (8, 4)).astype(np.float32)
            for each in (True, False):
                process.ask("play", {"actions": actions, "each": each, "last": True})
                assert_same([Tick.of(plain) for plain in process.answer()], worker.play(actions=actions, each=each, last=True))
    finally:
        process.close()
        worker.close()


def assert_same(there, here):
    for one, other in zip(there, here, strict=True):
        assert (one.reward, one.success, one.over) == (other.reward, other.success, other.over)
        assert one.seen.instruction == other.seen.instruction
        assert one.seen.images.keys() == other.seen.images.keys()
        for a, b in zip([one.seen.state, *one.seen.images.values()], [other.seen.state, *other.seen.images.values()], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


@pytest.mark.slow  # a process of its own
def test_a_process_that_answered_serves_the_next_pool(tiny_contract, monkeypatch):
    body, served = tiny_contract.embodiment, []
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # a process is used again where it would be started alike
    for task in ("touch", "lift"):
        pool, worker = in_processes(partial(TABLETOP, task=task), 1, body), Worker(partial(TABLETOP, task=task), body)
        process = pool._processes[0]
        pool.ask(0, "begin", seed=1, episode=0, look=True)
        assert_same(pool.answers()[0], worker.begin(seed=1, episode=0, look=True))
        pool.close()
        worker.close()
        served.append(process)
    assert served[0] is served[1]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    at_work = in_processes(TABLETOP, 1, body)
    assert at_work._processes == served[:1]
    assert torch.get_num_threads() == 2  # a core is the process's
    at_work.ask(0, "begin", seed=1, episode=0, look=False)
    at_work.close()  # in the midst of its work
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)
    another = IDLE.take()
    assert another is not served[0]
    IDLE.give(another, ending="clear")
    IDLE.leave()


@pytest.mark.slow  # a process of its own
def test_what_fails_there_is_told_here(tiny_contract):
    def failing():  # of this function, for the other process cannot import the tests
        class Failing(gymnasium.Wrapper):
            def step(self, action):
                if action[0] < 0:
                    os._exit(7)
                raise KeyError("no such body") if action[0] else ValueError("it broke down")

        return Failing(TABLETOP())

    process = Process()
    try:
        process.make(failing, embodiment=to_record(tiny_contract.embodiment))
        process.answer()
        process.ask("begin", {"seed": 1, "episode": 3, "look": False})
        assert process.answer()[0][0] == {}
        for first, kind, message in (
            (0.0, ValueError, "^episode 3, step 1: it broke down$"),
            (0.1, RuntimeError, "the environment failed: KeyError: 'no such body'"),
            (-0.1, ChildProcessError, r"process ended \(exit code 7\)"),
        ):
            process.ask("play", {"actions": np.array([[first, 0, 0, 0]]), "each": False, "last": True})
            with pytest.raises(kind, match=message):
                process.answer()
    finally:
        process.close()
