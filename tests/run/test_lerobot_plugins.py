"""LeRobot's own tools find the plug-ins and run what they bring."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla_tune.check.finding import CheckFailedError
from vla_tune.check.kept import KEPT_FILE, Kept
from vla_tune.export.lerobot_layout import policy_config, write_lerobot_layout
from vla_tune.export.lerobot_policy import observations_in
from vla_tune.run.objects import load_policy
from vla_tune.schema import Contract

NAMES = '["tool_translation_0.vel","tool_translation_1.vel","tool_translation_2.vel","suction.pos"]'
ROLLOUT = [
    "--strategy.type=base",
    "--robot.type=vla_tune_sim",
    "--task=lift the red block",
    "--fps=10",
    "--duration=2",
    "--return_to_initial_position=false",
    f"--policy.action_feature_names={NAMES}",
]


def batch_of(contract: Contract, rows: int) -> dict[str, Any]:
    body = contract.embodiment
    pixels = torch.randint(0, 256, (rows, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = {camera.key: pixels.float() / 255 for camera in body.cameras}
    return images | {body.state_key: torch.zeros(rows, body.state_dimension), "task": ["lift the red block"] * rows}


def test_pixels_survive_lerobots_division(tiny_contract: Contract) -> None:
    batch = batch_of(tiny_contract, 2)
    key = tiny_contract.embodiment.cameras[0].key
    shown = observations_in(batch, tiny_contract.embodiment)[1].images[tiny_contract.embodiment.cameras[0].role]
    again = torch.from_numpy(shown.copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(again, batch[key][1])


def test_a_robot_without_a_state_shows_none(tiny_contract: Contract) -> None:
    bare = replace(tiny_contract, embodiment=replace(tiny_contract.embodiment, state=()))
    batch = {key: value for key, value in batch_of(tiny_contract, 2).items() if key != bare.embodiment.state_key}
    assert [one.state.shape for one in observations_in(batch, bare.embodiment)] == [(0,), (0,)]
    assert bare.embodiment.state_key not in policy_config(bare)["input_features"]


@pytest.mark.parametrize("task", [None, "", ["lift"], ["lift", " "]])
def test_a_missing_instruction_is_named(tiny_contract: Contract, task: Any) -> None:
    batch = batch_of(tiny_contract, 2) | {"task": task}
    with pytest.raises(ValueError, match="needs an instruction"):
        observations_in(batch, tiny_contract.embodiment)


def test_a_missing_camera_is_named(tiny_contract: Contract) -> None:
    batch = batch_of(tiny_contract, 1)
    del batch[tiny_contract.embodiment.cameras[0].key]
    with pytest.raises(ValueError, match=tiny_contract.embodiment.cameras[0].key):
        observations_in(batch, tiny_contract.embodiment)


@pytest.mark.parametrize("name", ["lerobot_policy_vla_tune", "lerobot_policy_vla_tune_remote", "lerobot_robot_vla_tune_sim"])
def test_distributions_keep_their_underscores(name: str) -> None:
    from importlib.metadata import distribution

    assert distribution(name).metadata["Name"] == name


def lerobot(script: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"lerobot.scripts.{script}", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout + finished.stderr


def exported(base: Path) -> Path:
    """The shape of what `scripts/export.py` writes, with what it does on two frames; the weights are random."""
    folder = base.parent / "exported"
    folder.mkdir()
    contract = Contract.load(base)
    base.rename(folder / "hf")
    contract.save(folder)
    write_lerobot_layout(folder, contract)
    policy = load_policy(folder, rows=1, device="cpu").policy
    Kept.of(policy, observations_in(batch_of(contract, 2), contract.embodiment), contract).save(folder)
    return folder


def test_it_acts_in_lerobots_loops_only_if_it_does_what_was_trained(base: Path) -> None:
    from lerobot_policy_vla_tune.configuration_vla_tune import VlaTuneConfig
    from lerobot_policy_vla_tune.modeling_vla_tune import VlaTunePolicy

    folder = exported(base)
    config = VlaTuneConfig(device="cpu", pretrained_path=folder)
    assert VlaTunePolicy(config).contract == Contract.load(folder)
    kept = Kept.load(folder)
    Kept(kept.seen, np.ascontiguousarray(-kept.chunks), kept.contract).save(folder)
    with pytest.raises(CheckFailedError, match="kept actions"):
        VlaTunePolicy(config)
    (folder / KEPT_FILE).unlink()
    with pytest.raises(ValueError, match=f"holds no {KEPT_FILE}"):
        VlaTunePolicy(config)


@pytest.mark.slow  # a process that imports LeRobot
def test_lerobots_eval_runs_an_exported_folder(base: Path, tmp_path: Path) -> None:
    folder, to = exported(base), tmp_path / "evaluated"
    lerobot(
        "lerobot_eval",
        f"--policy.path={folder}",
        "--env.type=vla_tune",
        "--eval.batch_size=2",
        "--eval.n_episodes=2",
        "--policy.rows=2",
        f"--output_dir={to}",
    )
    assert json.loads((to / "eval_info.json").read_text())["overall"]["n_episodes"] == 2


@pytest.mark.slow  # a process that imports LeRobot, and some seconds of the robot's own time
def test_lerobots_rollout_moves_the_simulated_robot(base: Path) -> None:
    folder = exported(base)
    said = lerobot("lerobot_rollout", *ROLLOUT, f"--policy.path={folder}", f"--robot.contract={folder}")
    assert "Rollout finished" in said
    assert "using dataset order" not in said


@pytest.mark.slow  # as above
def test_lerobots_rollout_asks_a_server(base: Path, tmp_path: Path, served: Any, echo: Any) -> None:
    folder, contract = tmp_path / "remote", Contract.load(base)
    folder.mkdir()
    write_lerobot_layout(folder, contract)
    record = json.loads((folder / "config.json").read_text())
    with served(echo, contracts={"default": contract}) as address:
        (folder / "config.json").write_text(json.dumps(record | {"type": "vla_tune_remote", "url": address.url}))
        said = lerobot("lerobot_rollout", *ROLLOUT, f"--policy.path={folder}", f"--robot.contract={base}")
    assert "Rollout finished" in said
    assert "using dataset order" not in said
