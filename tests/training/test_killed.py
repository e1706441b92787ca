"""What `kill` leaves of a run goes on to the same bits: itself or a worker killed, or asked to stop, at any moment.

The runs are processes of their own, forked from one that never trained anything (torch does not train in a process that
was forked from one that did), and each accident happens at its n-th call of a Python function: at random, and the same each time.
"""

import multiprocessing
import os
import random
import signal
import sys
import traceback
import warnings
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vla_tune.models.base import Loss
from vla_tune.training import TrainingInterrupted, WorkerDiedError, feed, train
from vla_tune.training.checkpoint import OPTIMIZER, TRAINED
from vla_tune.training.interruption import STOPPING
from vla_tune.training.loggers import JsonlLogger, read_metrics
from vla_tune.training.metrics import Validation
from vla_tune.training.optim import adamw, warmup_cosine

STEPS = 8
DONE, WORKER_DIED, INTERRUPTED = 0, 3, 130
RESUME = "python scripts/train.py run=here"


class Toy(nn.Module):
    """With dropout, so that the random state matters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Linear(16, 4))

    def forward(self, batch):
        return self.layers(batch.state).reshape(-1, 2, 2)


class Distance:
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def loss(self, batch) -> Loss:
        per_label = (self.network(batch) - batch.actions).square()
        rows = torch.arange(len(batch)).repeat_interleave(4)
        return Loss(per_label.reshape(-1), None, rows)

    def act(self, batch):
        return self.network(batch).numpy()


def samples() -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [
        {
            "input_ids": np.arange(3),
            "placeholders": np.zeros(3, bool),
            "labels": np.full(3, -100),
            "prompt_length": np.array(3),
            "state": generator.normal(size=4).astype(np.float32),
            "actions": generator.normal(size=(2, 2)).astype(np.float32),
            "action_mask": np.ones((2, 2), bool),
            "index": np.array([number // 5, number % 5]),
        }
        for number in range(10)
    ]


def toy_run(run: Path, *, count: int) -> None:
    torch.manual_seed(0)
    train(
        model=Distance(Toy()),
        samples=samples(),
        validation=Validation(samples()[:3]),
        optimizer=partial(adamw, learning_rate=3e-3, weight_decay=0.01),
        schedule=partial(warmup_cosine, warmup_steps=2, floor=0.1),
        steps=STEPS,
        batch_size=2,
        gradient_accumulation=2,
        max_gradient_norm=1.0,
        precision="fp32",
        seed=7,
        run=run,
        loggers=[JsonlLogger(run / "metrics.jsonl")],
        validate_every=3,
        save_every=3,
        keep_last=2,
        pad_id=0,
        resume_command=RESUME,
        workers=count,
    )


def kill_itself() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def stop_the_group() -> bool:
    os.killpg(0, signal.SIGTERM)
    return True


def kill_a_worker() -> bool:
    """Once there is one."""
    there = multiprocessing.active_children()
    if there:
        os.kill(there[0].pid, signal.SIGKILL)
    return bool(there)


ACCIDENTS = {"kill -9": kill_itself, "SIGTERM": stop_the_group, "a worker": kill_a_worker, "nothing": lambda: True}


def in_child(run: str, count: int, accident: str, moment: int, start_method: str) -> int:
    """A run that meets an accident; writes how many functions it called."""
    os.setsid()  # a process group of its own
    os.dup2(os.open(Path(run).with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (the test runner's would go elsewhere)
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    feed.START_METHOD = start_method
    calls, pending = 0, True

    def counted(frame, event, argument) -> None:
        nonlocal calls, pending
        calls += event == "call"
        if calls >= moment and pending:
            sys.setprofile(None)
            pending = not ACCIDENTS[accident]()
            sys.setprofile(counted)

    sys.setprofile(counted)
    try:
        toy_run(Path(run), count=count)
    except TrainingInterrupted:
        return INTERRUPTED
    except WorkerDiedError as died:
        os.write(2, str(died).encode())
        return WORKER_DIED
    finally:
        sys.setprofile(None)
    Path(run).with_suffix(".calls").write_text(str(calls))
    return DONE


def serve(connection: Connection) -> None:
    """Fork a child for each request; its exit status is the answer, negative for a signal."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            os._exit(0)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = in_child(**request)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        connection.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _forked() -> Connection:
    here, there = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test runner: the child uses none of them
        if os.fork() == 0:
            here.close()
            serve(there)
    there.close()
    return here


FORKED = _forked()  # now: no test has run yet


def outcome(run: Path, *, accident: str, moment: int = 0, count: int = 0, start_method: str = "fork") -> int:
    request = {"run": str(run), "count": count, "accident": accident, "moment": moment, "start_method": start_method}
    FORKED.send(request)
    return FORKED.recv()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert outcome(run, accident="nothing") == DONE, run.with_suffix(".err").read_text()
    return run


def what_was_learned(run: Path) -> tuple[list[bytes], list[dict[str, float]]]:
    last = run / f"checkpoints/step_{STEPS:06d}"
    clocks = {"train/samples_per_second", "train/data_share"}
    lines = [{key: value for key, value in line.items() if key not in clocks} for line in read_metrics(run / "metrics.jsonl")]
    return [(last / name).read_bytes() for name in (TRAINED, OPTIMIZER)], lines


def goes_on_to_the_same_bits(run: Path, undisturbed: Path) -> None:
    assert outcome(run, accident="nothing") == DONE, run.with_suffix(".err").read_text()
    assert what_was_learned(run) == what_was_learned(undisturbed)
    assert not [entry.name for entry in (run / "checkpoints").iterdir() if entry.name.startswith(".")]


def moment_of(share: float, undisturbed: Path) -> int:
    return int(share * int(undisturbed.with_suffix(".calls").read_text()))


def test_kill_9(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    assert outcome(run, accident="kill -9", moment=moment_of(0.6, undisturbed)) == -signal.SIGKILL
    assert (run / "checkpoints/step_000003").is_dir()
    goes_on_to_the_same_bits(run, undisturbed)


def test_a_signal_to_the_group_saves_whatever_the_workers_do(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    assert outcome(run, accident="SIGTERM", moment=moment_of(0.5, undisturbed), count=2) == INTERRUPTED
    done = read_metrics(run / "metrics.jsonl")[-1]["step"]
    assert (run / f"checkpoints/step_{done:06d}").is_dir()
    said = run.with_suffix(".err").read_text()
    assert f"Interrupted; step {done} of {STEPS} is saved. Continue with:\n  {RESUME}" in said
    goes_on_to_the_same_bits(run, undisturbed)


def test_a_killed_worker_costs_no_step(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    assert outcome(run, accident="a worker", moment=moment_of(0.4, undisturbed), count=2) == WORKER_DIED
    said = run.with_suffix(".err").read_text()
    done = read_metrics(run / "metrics.jsonl")[-1]["step"]
    assert f"a worker process was killed by SIGKILL; step {done} is saved. If memory (or /dev/shm) was short, take fewer" in said
    assert said.endswith(f"Continue with: {RESUME}")
    assert (run / f"checkpoints/step_{done:06d}").is_dir()
    goes_on_to_the_same_bits(run, undisturbed)


KILLS = [("kill -9", 0), ("kill -9", 2), ("SIGTERM", 0), ("SIGTERM", 2), ("a worker", 2)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(30))
def test_at_random_moments(number: int, tmp_path: Path, undisturbed: Path) -> None:
    """Of what the runs do between their first and last line; every tenth with workers that are started as in a real run."""
    accident, count = KILLS[number % len(KILLS)]
    start_method = "spawn" if number % 10 in (1, 9) else "fork"
    moment = moment_of(random.Random(number).random(), undisturbed)
    run = tmp_path / "run"
    expected = {"kill -9": {-signal.SIGKILL}, "SIGTERM": {INTERRUPTED, -signal.SIGTERM, DONE}, "a worker": {WORKER_DIED, DONE}}
    status = outcome(run, accident=accident, moment=moment, count=count, start_method=start_method)
    assert status in expected[accident], run.with_suffix(".err").read_text()
    goes_on_to_the_same_bits(run, undisturbed)
