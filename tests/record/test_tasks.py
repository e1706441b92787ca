"""Recording several tasks of any environment: by any number of processes the same, and as if it had never been stopped."""

import errno
import importlib
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_tune.check.replay import replay
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.starts import read_starts
from vla_tune.record import STILL, NoiseByLevel, Storage, crew
from vla_tune.record.folder import Code
from vla_tune.record.shards import Shelf
from vla_tune.record.source import Demonstrated
from vla_tune.record.tasks import kept_in
from vla_tune.schema import Embodiment
from vla_tune.translation.words import in_words

Record = Callable[..., Path]
NOISE = NoiseByLevel(levels=[0.0, 0.02])
TASKS = ("left", "right")


@pytest.fixture(scope="module")
def record(make_crane: Any, crane_module: Any, crane: Embodiment) -> Record:
    def recorded(folder: Path, **changes: Any) -> Path:
        options = {"make": make_crane, "expert": crane_module.to_its_goal, "tasks": TASKS, "episodes": 4, "seed": 3, "noise": NOISE}
        return Demonstrated(folder=str(folder), **{"workers": 1, **options, **changes}).record(crane)

    return recorded


@pytest.fixture(scope="module")
def undisturbed(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("crane") / "crane")


def content(folder: Path) -> dict[str, str]:
    """Hashes by file; of data files all but the random name that `datasets` notes in them."""
    return {str(path.relative_to(folder)): sha256(bytes_in(path)).hexdigest() for path in folder.rglob("*") if path.is_file()}


def bytes_in(path: Path) -> bytes:
    return repr(pq.read_table(path).to_pydict()).encode() if path.parts[-3] == "data" else path.read_bytes()


def shards(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob(f".{folder.name}-*/*"))


def test_tasks_take_turns_and_only_successes_are_kept(undisturbed: Path, crane: Embodiment):
    data = Demonstrations(undisturbed, embodiment=crane, chunks=ChunksByTimestamp(1))
    said = [data[int(row)]["instruction"] for row in data.first_frames]
    assert said == ["put it to the left", "put it to the right"] * 4
    last = np.append(data.first_frames[1:], len(data)) - 1
    assert np.allclose(np.abs(data.frames.state[last, 0]), 0.7, atol=0.2)
    assert [path.name for path in undisturbed.parent.iterdir()] == ["crane"]
    attempts = json.loads((undisturbed / "attempts.json").read_text())
    assert attempts.keys() == set(TASKS)
    assert all(one["kept"] == 4 <= one["attempts"] for one in attempts.values())
    assert sum(one["attempts"] for one in attempts.values()) > 8, "from the far end it comes too late"


def test_episodes_begin_where_the_reset_puts_them(undisturbed: Path, crane: Embodiment, crane_module: Any):
    """Stored states are kept for trials; a start is told with its task, so that it can be gone back to."""
    data = Demonstrations(undisturbed, embodiment=crane, chunks=ChunksByTimestamp(1))
    began = data.frames.state[data.first_frames, 0]
    assert not np.isclose(began[:, None], crane_module.HOMES, atol=1e-6).any()
    starts = read_starts(undisturbed)
    assert [start.options["task"] for start in starts] == list(TASKS) * 4
    assert len({start.seed for start in starts}) == 8


def test_whoever_makes_the_environment_no_episode_begins_in_a_stored_state(
    record: Record, make_crane: Any, crane: Embodiment, crane_module: Any, tmp_path: Path
):
    def make(**task: str) -> Any:
        return make_crane(**task)

    data = Demonstrations(record(tmp_path / "own", make=make), embodiment=crane, chunks=ChunksByTimestamp(1))
    began = data.frames.state[data.first_frames, 0]
    assert not np.isclose(began[:, None], crane_module.HOMES, atol=1e-6).any()


def test_a_folder_is_found_by_the_words_that_it_was_always_found_by(undisturbed: Path, make_crane: Any):
    recipe = json.loads((undisturbed / "recipe.json").read_text())["recipe"]
    assert recipe["environment"] == in_words(partial(make_crane, starts=None))


def test_they_succeed_again_where_there_are_stored_starts(record: Record, make_crane: Any, crane: Embodiment, tmp_path: Path):
    """As a check of a run does it, in the environment as it is configured."""
    data = Demonstrations(record(tmp_path / "still", noise=STILL), embodiment=crane, chunks=ChunksByTimestamp(1))
    assert replay(data, lambda task: make_crane(task=task), count=8).passed


def test_a_recording_that_was_killed_goes_on(record: Record, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "crane"
    put = Shelf.put
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child writes files, and nothing else
        child = os.fork()
    if not child:

        def deadly(self: Shelf, task: str, episode: int, *given: Any, **more: Any) -> None:
            put(self, task, episode, *given, **more)
            if len(list(self.folder.iterdir())) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        Shelf.put = deadly
        record(folder)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not folder.exists()
    assert len(shards(folder)) == 3
    played: list[tuple[str, int]] = []

    def noted(self: Shelf, task: str, episode: int, *given: Any, **more: Any) -> None:
        played.append((task, episode))
        put(self, task, episode, *given, **more)

    monkeypatch.setattr(Shelf, "put", noted)
    record(folder)
    assert len(set(played)) == len(played) == 5
    assert content(folder) == content(undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["crane"]


@pytest.mark.slow
def test_two_processes_record_the_same_as_one(record: Record, undisturbed: Path, tmp_path: Path):
    """Slow: two processes start."""
    assert content(record(tmp_path / "crane", workers=2)) == content(undisturbed)


@pytest.mark.slow
def test_a_process_that_ends_by_itself_is_one_line(record: Record, crane_module: Any, tmp_path: Path):
    """Slow: a process starts."""
    with pytest.raises(ChildProcessError, match=r"ended \(exit code 7\) without a word"):
        record(tmp_path / "crane", tasks=["left"], episodes=3, workers=2, expert=crane_module.fatal)


def test_a_process_that_ends_behind_its_answer_is_one_line(monkeypatch: pytest.MonkeyPatch):
    """As one that the kernel kills while its last episode is told."""

    process = get_context("spawn").Process()
    monkeypatch.setattr(process, "join", lambda timeout=None: None)
    monkeypatch.setattr(type(process), "exitcode", -9)
    here, there = get_context("spawn").Pipe()
    there.close()
    with pytest.raises(ChildProcessError, match=r"ended \(exit code -9\) without a word"):
        crew._go_on(here, ("left", 1), {here: process})
    here.close()


def test_an_expert_that_cannot_be_handed_over_is_one_line(record: Record, tmp_path: Path):
    with pytest.raises(ValueError, match=r"cannot be handed to another process .* say workers=1"):
        record(tmp_path / "crane", workers=2, expert=lambda env: np.zeros(4, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_more_tasks_and_episodes_go_on_with_what_is_there(
    record: Record, crane_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An expert that is given up on one task has recorded the others, which are all there is to write without it."""
    lost = partial(record, tmp_path / "crane", expert=crane_module.lost)
    with pytest.raises(ValueError, match=r"failed 10 times .* task right \(episode 0\): leave the task out"):
        lost()
    assert len(shards(tmp_path / "crane")) == 4
    monkeypatch.setattr(crew, "rollout", lambda *_, **__: pytest.fail("recorded again"))
    folder = lost(tasks=["left"])
    assert json.loads((folder / "meta/info.json").read_text())["total_episodes"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["crane"]


def test_a_damaged_episode_is_recorded_again(record: Record, undisturbed: Path, crane_module: Any, tmp_path: Path, capsys):
    with pytest.raises(ValueError, match="failed 10 times"):
        record(tmp_path / "crane", expert=crane_module.lost)
    damaged = shards(tmp_path / "crane")[1]
    middle = damaged.stat().st_size // 2
    with damaged.open("r+b") as file:
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    capsys.readouterr()
    record(tmp_path / "crane", expert=crane_module.lost, tasks=["left"])
    assert capsys.readouterr().out.count(f"{damaged} is damaged, and is recorded again.") == 1
    whole = record(tmp_path / "whole", expert=crane_module.lost, tasks=["left"])
    assert content(tmp_path / "crane") == content(whole)


def test_another_experts_episodes_are_not_gone_on_with(record: Record, crane_module: Any, tmp_path: Path):
    with pytest.raises(ValueError, match="failed 10 times"):
        record(tmp_path / "crane", expert=crane_module.lost)
    left = {path.parent for path in shards(tmp_path / "crane")}
    with pytest.raises(ValueError, match="failed 10 times"):
        record(tmp_path / "crane", expert=crane_module.lost, seed=4)
    assert len(left | {path.parent for path in shards(tmp_path / "crane")}) == 2


def test_a_recording_leaves_alone_what_others_finished_beside_it(record: Record, crane_module: Any, tmp_path: Path):
    """Also where another's folder begins with the name of its own."""
    lost = partial(record, expert=crane_module.lost, episodes=1)
    for name in ("crane", "crane-long"):
        with pytest.raises(ValueError, match="failed 10 times"):
            lost(tmp_path / name)
    (tmp_path / ".crane-0.episodes").write_text("no folder")
    (tmp_path / ".crane-1.episodes").symlink_to(tmp_path / "nowhere")
    other = shards(tmp_path / "crane-long")
    assert len(other) == 1
    lost(tmp_path / "crane", tasks=["left"], seed=5)
    assert shards(tmp_path / "crane-long") == other
    assert not [path for path in shards(tmp_path / "crane") if path not in other], "those of another recipe are removed"


@pytest.mark.parametrize("said", [[0.0] * 4, np.zeros(3, np.float32), np.zeros((1, 4), np.float32), np.full(4, np.nan, np.float32)])
def test_what_is_no_action_is_one_line(record: Record, tmp_path: Path, said: Any):
    with pytest.raises(
        ValueError, match=r"task left, episode 0: the expert says .* no action of 'crane', an array of 4 finite numbers"
    ):
        record(tmp_path / "crane", tasks=["left"], episodes=1, expert=lambda env: said)
    assert list(tmp_path.iterdir()) == []


def test_the_same_recipe_is_reused_and_another_is_refused(record: Record, undisturbed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew, "rollout", lambda *_, **__: pytest.fail("recorded again"))
    before = content(undisturbed)
    assert record(undisturbed, workers=5) == undisturbed
    assert content(undisturbed) == before
    with pytest.raises(ValueError, match=r"another recipe \(episodes: 4 there, 5 asked for\)"):
        record(undisturbed, episodes=5)
    assert [path.name for path in undisturbed.parent.iterdir()] == ["crane"]


EXPERT = """
import numpy as np


class Own:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, env):
        return np.array([0, 0, 0, self.gain], np.float32)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A plain expert of a user's own module, as it is written now."""
    monkeypatch.syspath_prepend(tmp_path)

    def expert(gain: int, source: str = EXPERT) -> Any:
        (tmp_path / "own_expert_of_tests.py").write_text(source)
        sys.modules.pop("own_expert_of_tests", None)
        importlib.invalidate_caches()
        return importlib.import_module("own_expert_of_tests").Own(gain)

    yield expert
    sys.modules.pop("own_expert_of_tests", None)


def test_a_plain_expert_is_told_by_its_attributes_and_its_file(
    record: Record, undisturbed: Path, own: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "crane"
    shutil.copytree(undisturbed, folder)
    about = json.loads((folder / "recipe.json").read_text())
    expert = own(2)
    code = Code.behind(expert=expert)
    about["recipe"]["expert"], about["code"]["expert"] = in_words(expert), code.sources["expert"]
    (folder / "recipe.json").write_text(json.dumps(about))
    assert record(folder, expert=own(2)) == folder
    assert caplog.text == ""
    with pytest.raises(ValueError, match=r"expert: '<own_expert_of_tests.Own object, gain=2>' there, '.*gain=3>' asked for"):
        record(folder, expert=own(3))
    record(folder, expert=own(2, EXPERT.replace("0, 0, 0", "0, 0, 1")))
    assert "was recorded by other code: the files of the expert changed" in caplog.text
    caplog.clear()
    about["recipe"]["expert"] = "<own_expert_of_tests.Own object>"
    (folder / "recipe.json").write_text(json.dumps(about))
    assert record(folder, expert=own(2)) == folder
    assert "was recorded when attributes of objects without a repr were not noted" in caplog.text


def test_a_full_disk_keeps_what_is_finished(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put = Shelf.put

    def full(self: Shelf, task: str, episode: int, *given: Any, **more: Any) -> None:
        if episode == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, task, episode, *given, **more)

    monkeypatch.setattr(Shelf, "put", full)
    with pytest.raises(OSError, match=r"disk of .* is full: free some space and start again; what is finished is kept") as caught:
        record(tmp_path / "crane", tasks=["left"])
    assert caught.value.errno == errno.ENOSPC
    assert len(shards(tmp_path / "crane")) == 2


def test_videos_are_an_option(record: Record, undisturbed: Path, crane: Embodiment, tmp_path: Path):
    folder = record(tmp_path / "video", storage=Storage("video"), tasks=["right"], episodes=2)
    assert list(folder.rglob("*.mp4"))
    assert not (folder / "images").exists()
    first, second = (Demonstrations(path, embodiment=crane, chunks=ChunksByTimestamp(1)) for path in (undisturbed, folder))
    key, place = crane.cameras[0].key, int(first.first_frames[1])  # the first of the other task
    assert np.array_equal(first.frames.state[place], second.frames.state[0])
    assert np.abs(first[place][key].astype(int) - second[0][key]).mean() < 20


@pytest.mark.parametrize("text", ["{", "[]", '{"left": 3}', '{"left": {"kept": [1], "attempts": 2}}', '{"left": {"kept": 1}}'])
def test_damaged_attempts_are_named(tmp_path: Path, text: str):
    assert kept_in(tmp_path) is None
    (tmp_path / "attempts.json").write_text(text)
    with pytest.raises(ValueError, match=r"attempts\.json is damaged"):
        kept_in(tmp_path)


@pytest.mark.parametrize("wrong", [{"tasks": []}, {"tasks": ["left", "left"]}, {"episodes": 0}, {"workers": 0}])
def test_nothing_to_record_is_refused(record: Record, tmp_path: Path, wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        record(tmp_path / "crane", **wrong)
    assert list(tmp_path.iterdir()) == []
