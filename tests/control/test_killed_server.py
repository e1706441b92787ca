"""The server is killed at random moments: the robot is held in time, inside its limits, and goes on when it is back."""

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_tune.control.log import All, InMemory, JsonLines
from vla_tune.control.loop import Controller
from vla_tune.control.state import Rules, State, WallClock
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.execution import OpenLoop
from vla_tune.record import Storage
from vla_tune.record.ticks import DatasetLog
from vla_tune.schema import ColumnStatistics, Statistics
from vla_tune.serving.client import RemotePolicy

HZ, HORIZON, LATENCY = 50.0, 16, 0.06
BRAKING = 2.0 / 20.0 + 20.0 / 400.0
"""Seconds from full speed, by the arm's limits."""
PROMISED = LATENCY + HORIZON / HZ + BRAKING + 0.1
"""The last chunk is played to its end, then the arm brakes; a few ticks for the machine."""


class Server:
    """In a process of its own, always at the same port."""

    def __init__(self, contract: Path) -> None:
        self.contract, self.port = contract, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("served_arm.py")), str(self.contract), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Killer(threading.Thread):
    """Kills the server while the robot runs, waits until it rests, and starts the server again; `pressed` at the end."""

    def __init__(self, server: Server, times: int) -> None:
        super().__init__(daemon=True)
        self.server, self.times, self.rng = server, times, random.Random(0)
        self.controller: Controller | None = None
        self.waited: list[float] = []
        self.reason: str | None = None

    def pressed(self) -> str | None:
        return self.reason

    def run(self) -> None:
        try:
            for _ in range(self.times):
                self.wait_for(State.RUN, 20.0)
                time.sleep(self.rng.uniform(0.0, 0.7))
                begun = time.monotonic()
                self.server.kill()
                self.wait_for(State.HOLD, 20.0)
                self.waited.append(time.monotonic() - begun)
                time.sleep(self.rng.uniform(0.0, 0.2))
                self.server.start()
            self.reason = "killed often enough"
        except AssertionError as error:
            self.reason = str(error)

    def wait_for(self, state: State, seconds: float) -> None:
        assert self.controller is not None
        deadline, resting = time.monotonic() + seconds, state is State.HOLD
        while self.controller.state is not state or (resting and self.controller._parts.safety.moving):
            assert time.monotonic() < deadline, f"{state} was not reached within {seconds:g} s"
            time.sleep(0.002)


@pytest.fixture
def contract(tiny_contract, body, extents, tmp_path) -> Path:
    low, high = tuple(extents.low.tolist()), tuple(extents.high.tolist())
    given = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "min": low, "max": high, "q01": low, "q99": high}
    column = ColumnStatistics(**given, normalization=("quantile", "quantile", "none"))
    both = Statistics(dataset="arm", action=column, state=column, num_transitions=100, num_trajectories=1)
    made = replace(tiny_contract, embodiment=body, statistics=both, horizon=HORIZON, execute_steps=HORIZON, base=None)
    (tmp_path / "contract").mkdir()
    made.save(tmp_path / "contract")
    return tmp_path / "contract"


def killed(times: int, contract: Path, arm, controlled, folder: Path) -> tuple[Killer, Controller, InMemory]:
    """The controller of an arm, through so many deaths of its server."""
    arm.clock = WallClock()
    server = Server(contract)
    killer, memory = Killer(server, times), InMemory()
    dataset = DatasetLog(folder / "dataset", arm.embodiment, hz=HZ, storage=Storage())
    log = All([JsonLines(folder / "ticks.jsonl"), memory, dataset])
    policy = RemotePolicy(f"ws://localhost:{server.port}", timeout=1.0, patience=0.3)
    rules = Rules(stale=0.5, frozen=10.0, patience=30.0, rejections=3, watchdog=30.0)
    changed = {"execution": OpenLoop(blend=1), "stop": killer, "rules": rules, "log": log, "clock": arm.clock}
    controller, _ = controlled(policy, **changed)
    killer.controller = controller
    killer.start()
    try:
        controller.run(seconds=3600.0)
    finally:
        policy.close()
        server.kill()
        log.close()
    return killer, controller, memory


def check(times: int, killer: Killer, controller: Controller, memory: InMemory, arm, within, folder: Path) -> None:
    assert killer.reason == "killed often enough"
    assert len(killer.waited) == times
    assert max(killer.waited) <= PROMISED, sorted(killer.waited)[-5:]
    commands = np.stack([tick.command for tick in memory.ticks])
    within(commands)
    assert np.abs(np.diff(commands, axis=0)).max() > 0.01  # it did move
    assert np.abs(np.diff(np.stack(arm.sent)[:, :2], axis=0)).max() <= 0.05  # what reached the arm, holds included
    lines = (folder / "ticks.jsonl").read_text().splitlines()
    assert [json.loads(line)["tick"] for line in lines] == [tick.tick for tick in memory.ticks]
    assert len(lines) == controller.counts.ticks
    written = Demonstrations(folder / "dataset", embodiment=arm.embodiment, chunks=ChunksByTimestamp(1))
    assert len(written) == controller.counts.ticks


@pytest.mark.ci  # a promise in seconds, of processes that start and die: test_faults has its like on a turned clock
def test_a_server_that_dies_three_times(contract, arm, controlled, assert_within_limits, tmp_path):
    check(3, *killed(3, contract, arm, controlled, tmp_path), arm, assert_within_limits, tmp_path)


@pytest.mark.slow
def test_a_server_that_dies_fifty_times(contract, arm, controlled, assert_within_limits, tmp_path):
    """Slow: two minutes, for the server starts again fifty times."""
    check(50, *killed(50, contract, arm, controlled, tmp_path), arm, assert_within_limits, tmp_path)
