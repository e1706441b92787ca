"""`scripts/record.py`: what is recorded, reported and refused."""

import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from vla_tune.data.chunks import ChunksByTimestamp, RecordedChunks
from vla_tune.data.dataset import Demonstrations
from vla_tune.record.source import Played
from vla_tune.run.errors import one_line_errors
from vla_tune.run.record import record
from vla_tune.schema import Contract

CONF = Path(__file__).parents[2] / "conf"


OUTSIDE = CONF.parent / "tests" / "translation" / "outside"
CRANE = [
    f"hydra.searchpath=[file://{OUTSIDE}/conf]",
    *(
        "env=crane",
        "embodiment=crane",
        "task=[left]",
        "recording.episodes=2",
        "recording.workers=1",
        "recording.noise.levels=[0.01]",
    ),
]
"""An environment outside the package; its YAML names no expert."""


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("record", overrides=list(overrides))


def refused(cfg: DictConfig, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the program ends."""
    with pytest.raises(SystemExit, match="2"):
        one_line_errors(record)(cfg)
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    return ["task=touch", "recording.episodes=2", f"to={tmp_path / 'touch'}"]


def test_demonstrations_are_recorded_and_reported(tmp_path: Path, quick: list[str], tiny_contract: Contract, capsys):
    result = record(configuration(*quick, f"json={tmp_path / 'reports' / 'touch.json'}"))
    data = Demonstrations(tmp_path / "touch", embodiment=tiny_contract.embodiment, chunks=ChunksByTimestamp(1))
    assert (result.episodes, result.frames) == (2, len(data))
    assert result.robot_seconds == pytest.approx(len(data) / 10)
    assert result.size_bytes == sum(path.stat().st_size for path in (tmp_path / "touch").rglob("*") if path.is_file())
    assert {data[index]["instruction"].split()[0] for index in range(len(data))} <= {"touch", "reach"}
    assert json.loads((tmp_path / "reports" / "touch.json").read_text()) == asdict(result)
    assert f"{result.frames:,}" in capsys.readouterr().out


def test_the_same_command_reuses_the_folder_and_another_recipe_is_refused(tmp_path: Path, quick: list[str], capsys):
    first, again = (record(configuration(*quick)) for _ in range(2))
    assert (first.reused, again.reused) == (False, True)
    assert (first.frames, first.size_bytes) == (again.frames, again.size_bytes)
    capsys.readouterr()
    line = refused(configuration(*quick, "seed=1"), capsys)
    assert line.startswith(f"error: {tmp_path / 'touch'} was recorded by another recipe (seed: 0 there, 1 asked for)")


def test_noise_and_storage_are_options(tmp_path: Path, quick: list[str]):
    record(configuration(*quick, "recording=demonstrations_video", "recording.noise.share=0.0", "recording.noise.burst=0.0"))
    recipe = json.loads((tmp_path / "touch" / "recipe.json").read_text())["recipe"]
    assert (recipe["storage"]["kind"], recipe["noise"]["share"], recipe["noise"]["burst"]) == ("video", 0, 0)
    assert list((tmp_path / "touch").rglob("*.mp4"))


def test_counterfactual_frames_carry_their_chunks(tmp_path: Path, tiny_contract: Contract):
    tasks = "recording.tasks=[push_left,touch]"
    result = record(configuration("recording=counterfactual", tasks, "recording.frames=20", f"to={tmp_path / 'play'}"))
    data = Demonstrations(tmp_path / "play", embodiment=tiny_contract.embodiment, chunks=RecordedChunks(4))
    assert result.frames == len(data) >= 20
    assert data[0]["actions"].shape == (4, 4)
    assert np.array_equal(data[0]["actions"][0], data.frames.actions[0])
    words = {data[index]["instruction"].split()[0] for index in range(len(data))}
    assert words <= {"push", "slide", "move", "touch", "reach"}


@pytest.mark.parametrize(
    "overrides",
    [["task=dance"], ["recording=counterfactual", "recording.tasks=[push_left,dance]"]],
    ids=["demonstrations", "counterfactual"],
)
def test_an_unknown_task_is_one_line_and_leaves_nothing(tmp_path: Path, overrides: list[str], capsys):
    line = refused(configuration(*overrides, f"to={tmp_path / 'dance'}"), capsys)
    assert line.startswith("error: unknown task 'dance': choose from push_left, ")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, quick: list[str], capsys, monkeypatch):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LeRobotDataset, "save_episode", full)
    assert f"the disk of {tmp_path} is full: free some space" in refused(configuration(*quick), capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nothing", [{"tasks": []}, {"frames": 0}, {"horizon": 0}])
def test_play_about_nothing_is_refused(nothing: dict[str, Any]):
    (name,) = nothing
    with pytest.raises(ValueError, match=f"{name}="):
        Played(**({"folder": "f", "tasks": ["touch"], "frames": 1, "horizon": 1, "seed": 0} | nothing))


def test_play_has_no_single_task():
    with pytest.raises(ConfigCompositionException, match="task"):
        configuration("recording=counterfactual", "task=lift")


def test_an_environment_that_names_an_expert_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.syspath_prepend(str(OUTSIDE))
    expert = "+env.expert={_target_: crane.to_its_goal, _partial_: true}"
    result = record(configuration(*CRANE, expert, f"to={tmp_path / 'crane'}"))
    assert result.episodes == 2
    assert result.attempts is not None
    assert result.attempts.startswith("left 2/")
    assert f"Attempts kept, by task: {result.attempts}." in capsys.readouterr().out
    recipe = json.loads((tmp_path / "crane" / "recipe.json").read_text())["recipe"]
    assert recipe["embodiment"]["name"] == "crane"
    assert "StoredStarts" not in recipe["environment"].rpartition("starts=")[2]


@pytest.mark.parametrize(("env", "robot"), [("pusht", "pusht"), ("tabletop_dimmed", "tabletop")])
def test_the_robot_is_the_one_whose_name_begins_the_environments(env: str, robot: str):
    assert configuration(f"env={env}").embodiment.name == robot


def test_without_an_expert_there_is_nothing_to_record(tmp_path: Path, capsys):
    folder = f"to={tmp_path / 'crane'}"
    assert refused(configuration(*CRANE, folder), capsys).startswith("error: env=crane names no expert that could show its tasks")
    dimmed = configuration("env=tabletop_moved_camera", "recording=demonstrations", folder)
    assert "is the built-in tabletop's" in refused(dimmed, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suite", ["libero_object", "libero_spatial", "libero_goal", "libero_10"])
def test_what_training_would_record_can_be_recorded_beforehand(suite: str):
    """By the same recipe into the same folder."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        training = compose("train", overrides=[f"data={suite}", "task=[0,3]", "experiment=none"])
    alone = configuration(f"env={suite}_fast_128", "task=[0,3]")
    source, recording = (OmegaConf.to_container(node, resolve=True) for node in (training.data.sources[0], alone.recording))
    assert isinstance(source, dict)
    assert isinstance(recording, dict)
    assert recording.pop("storage") == {"_target_": "vla_tune.record.Storage", "kind": "image"}, "the default"
    assert source == recording
    assert source["folder"] == f"datasets/{suite}-0_3"
    assert source["make"]["environment"]["arguments"] | {"drawing": None} == {"suite": suite, "size": 128, "drawing": None}
    assert training.data.embodiment == alone.embodiment
    assert training.env.suite == suite
    assert training.env.protocol == "libero_fast_128"
