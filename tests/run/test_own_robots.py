"""The whole way on robots that the package has never seen, each described by one YAML outside of it.

An arm in degrees whose driver speaks radians; two arms with three cameras; an arm whose policy reads no state.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from vla_tune.run.check import check
from vla_tune.run.control import control
from vla_tune.run.export import export_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.schema import Contract
from vla_tune.training import TrainingInterrupted

HERE = Path(__file__).parent / "own_robots"
ROOT = Path(__file__).parents[2]
DIMENSIONS = {"lab_arm": (7, 7), "two_arms": (14, 14), "eyes_only": (0, 7)}
MADE_ANEW = {
    "lab_arm": ["proprio_projector for 7 state dimensions (the base's is for 4)"],
    "two_arms": ["proprio_projector for 14 state dimensions (the base's is for 4)"],
    "eyes_only": ["proprio_projector left out (the base's is for 4)"],
}
MINE = f"hydra.searchpath=[file://{HERE / 'conf'}]"
LEARNING = ["head=regression", "adapter=lora_r16", "optimizer.learning_rate=2e-3", "training.batch_size=32", "training.steps=500"]
SMALL = [
    *(
        "head=regression",
        "adapter=lora_r4",
        "optimizer.learning_rate=1e-3",
        "training.batch_size=4",
        "training.steps=2",
        "horizon=4",
    ),
    *("validation.frames=8", "validation.predicted=4", "validation.seen=4", "evaluation.frames=6", "evaluation.drawn=1"),
    *("evaluation.probed=4", "data.held_out=0.3", "device=cpu"),
]


@pytest.fixture(scope="module")
def own_arms() -> Iterator[Any]:
    """The module of the stub, where a configuration finds it by name."""
    sys.path.insert(0, str(HERE))
    yield import_module("own_arms")
    sys.path.remove(str(HERE))


@pytest.mark.ci
@pytest.mark.parametrize("robot", ["lab_arm", "eyes_only"])
def test_from_its_data_to_its_driver(robot: str, own_arms: Any, configuration, tmp_path: Path):
    """Trained, reported, exported, checked and driven, all in this process."""
    state, action = DIMENSIONS[robot]
    own_arms.record(tmp_path / "data", own_arms.embodiment(robot), episodes=4, frames=8)
    given = [MINE, "data=folder", f"data.sources.0.folder={tmp_path / 'data'}", f"embodiment@data.embodiment={robot}"]
    fine_tune(configuration("train", *given, *SMALL), tmp_path / "run", resume_command="")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["training"]["made_anew"] == MADE_ANEW[robot]
    assert {row["policy"] for row in results["open_loop"]} >= {"fine_tuned"}
    contract = Contract.load(tmp_path / "run")
    assert (contract.embodiment.state_dimension, contract.embodiment.action_dimension) == (state, action)

    export_run(configuration("export", f"run={tmp_path / 'run'}", f"to={tmp_path / 'robot'}", "frames=2", "observations=6"))
    assert MADE_ANEW[robot][0] in (tmp_path / "robot/README.md").read_text()
    merged = json.loads((tmp_path / "robot/hf/config.json").read_text())
    assert merged.get("proprio_dimension", 0) == state
    assert merged["action_head_dimension"] == action
    check(configuration("check", f"policy={tmp_path / 'robot'}", "device=cpu"))

    drive = [MINE, f"robot={robot}", f"policy={tmp_path / 'robot'}", f"to={tmp_path / 'log'}", f"stop_file={tmp_path / 'STOP'}"]
    (outcome,) = control(configuration("control", *drive, "instruction=raise the arm", "seconds=1.0", "device=cpu", "margin=5"))
    assert outcome.counts.ticks > 10
    assert outcome.counts.failures == 0
    ticks = [json.loads(line) for line in (tmp_path / "log/ticks.jsonl").read_text().splitlines()]
    sent = np.array([tick["sent"] for tick in ticks if tick["sent"][0] is not None])
    assert sent.shape[1] == action
    if robot == "lab_arm":
        assert np.abs(sent[:, :6]).max() <= 2.0, "radians, within the limits of the driver"


@pytest.mark.ci
def test_projections_made_anew_end_with_the_same_bits_after_a_stop(own_arms: Any, configuration, interrupted_after, tmp_path: Path):
    own_arms.record(tmp_path / "data", own_arms.embodiment("lab_arm"), episodes=4, frames=8)
    given = [MINE, "data=folder", f"data.sources.0.folder={tmp_path / 'data'}", "embodiment@data.embodiment=lab_arm"]
    cfg = configuration("train", *given, *SMALL, "training.steps=3", "training.save_every=1", "evaluation=none")
    fine_tune(cfg, tmp_path / "whole", resume_command="")
    with interrupted_after(2), pytest.raises(TrainingInterrupted):
        fine_tune(cfg, tmp_path / "stopped", resume_command="")
    fine_tune(cfg, tmp_path / "stopped", resume_command="")
    whole, resumed = (
        {path.name: path.read_bytes() for path in (tmp_path / run / "adapter").iterdir()} for run in ("whole", "stopped")
    )
    assert whole == resumed
    learned = {name for path in (tmp_path / "whole/adapter").glob("*.safetensors") for name in load_file(path)}
    assert [name for name in learned if "proprio_projector" in name], "they learned too"


def script(name: str, *arguments: str, allowed: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(_command(name, *arguments), capture_output=True, text=True, cwd=ROOT, env=_environment(), timeout=3600)
    assert done.returncode in allowed, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.mark.slow  # five processes a robot and 500 steps of training: ten minutes
@pytest.mark.parametrize("robot", DIMENSIONS)
def test_the_commands_of_the_readme(robot: str, own_arms: Any, tmp_path: Path):
    """Each in a process of its own; the stub is driven to where the instruction says."""
    own_arms.record(tmp_path / "data", own_arms.embodiment(robot))
    mine, run = f"--config-dir={HERE / 'conf'}", tmp_path / "run"
    chosen = ["data=folder", f"data.sources.0.folder={tmp_path / 'data'}", f"embodiment@data.embodiment={robot}"]
    script("train", mine, *chosen, *LEARNING, f"hydra.run.dir={run}")
    for made in ("results.json", "check.json", "probe.safetensors", "held_out.png", "actions.png"):
        assert (run / made).stat().st_size, made
    script("check", f"run={run}", allowed=(0, 2))
    failed = {finding["probe"] for finding in json.loads((run / "check.json").read_text()) if not finding["passed"]}
    assert failed <= {"range"}, "after so few steps the first action may lie further away than any recorded one"
    script("export", f"run={run}", f"to={tmp_path / 'robot'}")
    with _served(tmp_path / "robot") as address:
        drive = [mine, f"robot={robot}", f"policy={address}", f"to={tmp_path / 'log'}", "instruction=raise the arm"]
        script("control", *drive, "seconds=15")
    ticks = [json.loads(line) for line in (tmp_path / "log/ticks.jsonl").read_text().splitlines()]
    sent = [np.array(tick["sent"]) for tick in ticks if tick["sent"][0] is not None]
    body = own_arms.embodiment(robot)
    last = np.concatenate([np.degrees(sent[-1][:6]), sent[-1][6:]]) if robot != "two_arms" else sent[-1]
    assert own_arms.share_of(body, last) > 0.8, "it was raised"


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(_command("serve", f"policy={folder}", f"port={port}"), cwd=ROOT, env=_environment())
    try:
        _until_it_listens(server, port)
        yield f"ws://localhost:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _until_it_listens(server: subprocess.Popen, port: int) -> None:
    for _ in range(600):
        with socket.socket() as knock:
            if knock.connect_ex(("localhost", port)) == 0:
                return
        assert server.poll() is None, "the server ended"
        time.sleep(0.5)
    raise AssertionError("the server never listened")


def _command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, f"scripts/{name}.py", *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE)}
