"""Recording expert episodes: whole, repeatable, and honest about the noise."""

import errno
import json
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  (registers the environment)
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.record import STILL, Noise, Storage, record_demonstrations
from vla_tune.record import demonstrations as module
from vla_tune.record.folder import Code, written_once
from vla_tune.record.tabletop import tabletop_expert
from vla_tune.schema import Contract, Embodiment

WILD = Noise(deviation_m=0.01, share=1.0, burst=1.0)


@pytest.fixture(scope="module")
def body(tiny_contract: Contract) -> Embodiment:
    return tiny_contract.embodiment


def record(folder: Path, body: Embodiment, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "make_env": partial(gymnasium.make, "vla_tune/Tabletop-v0", task="touch", disable_env_checker=True),
        "expert": tabletop_expert,
        "embodiment": body,
        "episodes": 2,
        "seed": 7,
        "noise": WILD,
        "storage": Storage(),
    }
    return record_demonstrations(folder, **(arguments | changes))


def rows(folder: Path, body: Embodiment) -> list[dict[str, Any]]:
    dataset = Demonstrations(folder, embodiment=body, chunks=ChunksByTimestamp(1))
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture(scope="module")
def folder(body: Embodiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("record") / "touch", body)


def test_the_recorded_action_is_the_experts_and_the_executed_one_is_not(folder: Path, body: Embodiment):
    """Without noise the tool follows the actions; with it, the recorded actions do not explain where the tool went."""
    still = record(folder.parent / "still", body, noise=STILL)
    gaps = {}
    for name, path in (("noisy", folder), ("still", still)):
        samples = rows(path, body)
        moves = [
            np.abs((b["observation.state"] - a["observation.state"])[:3] - a["actions"][0, :3]).max()
            for a, b in pairwise(samples)
            if a["index"][0] == b["index"][0]
        ]
        gaps[name] = max(moves)
        assert all(np.abs(sample["actions"][0, :3]).max() <= 0.03 + 1e-6 for sample in samples)
    assert gaps["still"] < 0.03 < gaps["noisy"]


def test_every_recorded_action_is_what_the_expert_says_in_that_state(body: Embodiment, tmp_path: Path):
    said: list[np.ndarray] = []

    def listening(env: Any) -> np.ndarray:
        said.append(tabletop_expert(env))
        return said[-1]

    samples = rows(record(tmp_path / "a", body, expert=listening), body)
    recorded = np.array([sample["actions"][0] for sample in samples])
    assert np.array_equal(recorded, np.array(said)[: len(recorded)])


def test_the_same_seed_records_the_same(folder: Path, body: Embodiment):
    again = record(folder.parent / "again", body)
    for first, second in zip(rows(folder, body), rows(again, body), strict=True):
        for key, value in first.items():
            assert np.array_equal(value, second[key]), key
    other = rows(record(folder.parent / "other", body, seed=8), body)
    assert not np.array_equal(other[0]["observation.state"], rows(folder, body)[0]["observation.state"])


def test_tasks_take_turns(body: Embodiment, tmp_path: Path):
    folder = record(tmp_path / "both", body, options=[{"task": "touch"}, {"task": "push_left"}])
    sentences = {int(sample["index"][0]): sample["instruction"] for sample in rows(folder, body)}
    assert sentences[0].startswith(("touch", "reach"))
    assert sentences[1].endswith("left")


def test_videos_are_an_option(folder: Path, body: Embodiment, tmp_path: Path):
    video = record(tmp_path / "video", body, storage=Storage("video"))
    assert list(video.rglob("*.mp4"))
    for first, second in zip(rows(folder, body), rows(video, body), strict=True):
        assert np.array_equal(first["actions"], second["actions"])
        key = body.cameras[0].key
        assert np.abs(first[key].astype(int) - second[key]).mean() < 8


def test_failures_are_not_kept(body: Embodiment, tmp_path: Path):
    calls = iter(range(10_000))

    def clumsy(env: Any) -> np.ndarray:
        return np.zeros(4, np.float32) if next(calls) < 60 else tabletop_expert(env)  # the first attempt runs into the limit

    samples = rows(record(tmp_path / "a", body, expert=clumsy), body)
    assert {int(sample["index"][0]) for sample in samples} == {0, 1}
    assert max(int(sample["index"][1]) for sample in samples) < 58


def test_a_hopeless_expert_is_given_up_and_leaves_nothing(body: Embodiment, tmp_path: Path):
    with pytest.raises(ValueError, match=r"episode 0: the expert failed 5 times: reduce the noise"):
        record(tmp_path / "a", body, expert=lambda env: np.zeros(4, np.float32))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="episodes=0"):
        record(tmp_path / "a", body, episodes=0)


def test_the_same_recipe_is_reused_and_another_is_refused(folder: Path, body: Embodiment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "rollout", lambda *_, **__: pytest.fail("recorded again"))
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    assert record(folder, body) == folder
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    with pytest.raises(ValueError, match=r"another recipe \(episodes: 2 there, 3 asked for, seed: 7 there, 8"):
        record(folder, body, episodes=3, seed=8)
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["recipe"]["environment"]["kwargs"] == {"task": "touch"}
    assert recipe["versions"].keys() >= {"vla-tune", "lerobot", "mujoco", "numpy", "gymnasium"}
    assert recipe["code"].keys() == {"environment", "expert"}


def test_a_folder_of_somebody_else_is_left_alone(body: Embodiment, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    with pytest.raises(ValueError, match=r"was not recorded here"):
        record(tmp_path / "mine", body)
    (tmp_path / "mine" / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe.json is damaged"):
        record(tmp_path / "mine", body)
    assert (tmp_path / "mine" / "file").read_text() == "x"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), RuntimeError("crash")])
def test_an_interrupted_recording_leaves_nothing(interruption: BaseException, body: Embodiment, tmp_path: Path):
    calls = iter(range(10_000))

    def interrupted(env: Any) -> np.ndarray:
        if next(calls) == 20:
            raise interruption
        return tabletop_expert(env)

    with pytest.raises(type(interruption)):
        record(tmp_path / "a", body, expert=interrupted, episodes=5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(body: Embodiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LeRobotDataset, "save_episode", full)
    with pytest.raises(OSError, match=r"disk of .* is full: free some space") as caught:
        record(tmp_path / "a", body)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_even_where_the_writer_hid_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(_: Path) -> None:
        raise FileNotFoundError("frame-000003.png")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with pytest.raises(OSError, match="is full"):
        written_once(tmp_path / "a", {}, write, Code(sources={}, packages={}))
