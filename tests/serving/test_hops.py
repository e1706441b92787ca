"""The way of one observation to the robot over the wire: how many files of the package it enters.

`uv run pytest -s tests/serving/test_hops.py` prints it (docs/concepts/data-way.md draws it).
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import numpy as np
import pytest

import vla_tune
from vla_tune.control.emergency import AnyOf
from vla_tune.control.limits import LimitsOfData
from vla_tune.control.log import InMemory
from vla_tune.control.loop import Controller
from vla_tune.control.parts import Parts
from vla_tune.control.robot import Seen
from vla_tune.control.safety import ActionRange, Safety
from vla_tune.control.setpoints import FromMeasured, SetPoints, measured_by
from vla_tune.control.simulated import SimulatedRobot
from vla_tune.control.state import Rules
from vla_tune.data import build_pipeline
from vla_tune.execution import OpenLoop
from vla_tune.extents import Extents
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Contract
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.worker import alone

PACKAGE = f"{Path(vla_tune.__file__).parent}/"
BESIDE = ("control/log.py", "serving/metrics.py")
"""What is told of it afterwards."""
OWN = ("control", "execution", "serving")


@dataclass
class Way:
    """The functions of the package that are entered, in all threads, while it is watched."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    """(file below the package, function), in order."""

    def begin(self) -> None:
        threading.setprofile_all_threads(self._noted)

    def end(self) -> None:
        threading.setprofile_all_threads(None)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What this thread does in the block is not looked at."""
        before = sys.getprofile()
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _noted(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and (file := code.co_filename[len(PACKAGE) :]) not in BESIDE:
            self.calls.append((file, code.co_qualname))

    @property
    def files(self) -> list[str]:
        """Each once, in the order in which they are entered first."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    @property
    def own(self) -> list[str]:
        """Those of control, execution and serving; the others are the policy's and its model's."""
        return [file for file in self.files if file.partition("/")[0] in OWN]

    def __str__(self) -> str:
        functions = {file: dict.fromkeys(name for other, name in self.calls if other == file) for file in self.files}
        rooms = [room for room, _ in groupby(file.partition("/")[0].removesuffix(".py") for file, _ in self.calls)]
        said = f"{len(self.files)} files, {len(self.own)} of control, execution and serving; {len(set(rooms))} packages"
        return "\n".join([f"An observation: {said}", *(f"  {file}: {', '.join(names)}" for file, names in functions.items())])


class Noise(gymnasium.Env):
    """Shows noise, whatever is done."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(self, *, seed=None, options=None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self._shown(), {}

    def step(self, action) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        return self._shown(), 0.0, False, False, {}

    def _shown(self) -> dict[str, Any]:
        image = self.np_random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        return {"images": {"front": image}, "state": np.zeros(4, np.float32), "instruction": "lift the red block"}


@dataclass(eq=False)
class Watched(SimulatedRobot):
    """Watches an episode from its first tick, which asks for a chunk, to the first action of it; motions are not looked into."""

    way: Way = field(default_factory=Way)
    observed: int = 0

    def observe(self) -> Seen:
        self.observed += 1
        if self.observed == 2:  # the first is for where the robot is
            self.way.begin()
        return super().observe()

    def send(self, action: np.ndarray) -> np.ndarray:
        self.way.end()
        return super().send(action)

    def hold(self) -> None:
        with self.way.apart():
            super().send(self._still)


def parts_of(policy: RemotePolicy, contract: Contract, clock) -> Parts:
    body, extents = contract.embodiment, Extents.executed(contract)
    robot = Watched(lambda task: Noise(), "lift", body, clock=clock.now)
    robot.connect()
    return Parts(
        robot=robot,
        policy=policy,
        actions=ActionRange(extents, margin=10.0),  # random weights say anything
        set_points=SetPoints(body, measured_by(body), FromMeasured()),
        safety=Safety(LimitsOfData(0.25).axes(body, extents), hz=robot.hz),
        execution=OpenLoop(),
        stop=AnyOf([]),
        rules=Rules(stale=5.0, frozen=5.0, patience=5.0, rejections=3, watchdog=60.0),
        log=InMemory(),
        clock=clock,
    )


@pytest.fixture
def way(served, clock, tiny_model, tiny_head, tiny_tokenizer, tiny_contract) -> Way:
    """Of the second episode: what is done once was done in the first."""
    pipeline = build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))
    local = LocalPolicy(tiny_head.over(tiny_model), pipeline, tiny_contract, pad_id=512, rows=1)
    with served(alone(local), rows=1) as address:
        remote = RemotePolicy(address.url, contract=tiny_contract)
        parts = parts_of(remote, tiny_contract, clock)
        robot: Any = parts.robot
        try:
            for episode in range(2):
                robot.way, robot.observed = Way(), 0
                robot.start(episode)
                Controller(parts).run(seconds=0.15)  # a tick that asks, and one that acts
        finally:
            robot.way.end()
            remote.close()
    return robot.way


def test_an_observation_is_short_of_turns(way: Way):
    print(f"\n{way}")
    assert {"control/loop.py", "control/safety.py", "serving/connection.py", "policy/local.py"} <= set(way.files), str(way)
    assert len(way.own) <= 10, str(way)
    assert len(way.files) <= 20, str(way)
