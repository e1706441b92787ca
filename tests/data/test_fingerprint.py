"""Data that were exchanged are told from those that were there: pictures alone, sentences alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.fingerprint import fingerprint
from vla_tune.record.writer import Storage, write_episodes

CHUNKS = ChunksByTimestamp(horizon=2)


@pytest.fixture
def opened(body):
    def open_(root: Path, **selected) -> str:
        return fingerprint([Demonstrations(root, embodiment=body, chunks=CHUNKS, **selected)])

    return open_


@pytest.fixture
def written(body, tmp_path: Path):
    def write(name: str, recorded: list[list[dict]], kind: str) -> Path:
        write_episodes(tmp_path / name, recorded, embodiment=body, storage=Storage(kind))
        return tmp_path / name

    return write


@pytest.mark.parametrize("folder", ["image_folder", "video_folder"])
def test_a_copy_has_the_same(folder: str, opened, request: pytest.FixtureRequest, tmp_path: Path):
    root = request.getfixturevalue(folder)
    assert opened(shutil.copytree(root, tmp_path / "copy")) == opened(root)
    assert opened(root, exclude=[1]) != opened(root)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_one_picture_more_or_less_grey_is_noticed(kind: str, body, recorded, opened, written):
    key = body.cameras[0].key
    others = [[dict(frame) for frame in episode] for episode in recorded]
    others[1][3][key] = np.clip(others[1][3][key].astype(int) + 40, 0, 255).astype(np.uint8)
    assert opened(written("same", recorded, kind)) != opened(written("others", others, kind))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_same_recorded_again_is_the_same(kind: str, recorded, opened, written):
    assert opened(written("one", recorded, kind)) == opened(written("again", recorded, kind))


def test_another_sentence_for_one_episode_is_noticed(recorded, opened, written):
    others = [[dict(frame) for frame in episode] for episode in recorded]
    for frame in others[2]:
        frame["task"] = "touch the blue block"
    assert opened(written("same", recorded, "image")) != opened(written("others", others, "image"))


def test_only_files_in_use_count(image_folder: Path, opened, tmp_path: Path):
    copy = shutil.copytree(image_folder, tmp_path / "copy")
    (copy / "statistics").mkdir(exist_ok=True)
    (copy / "statistics" / "note.json").write_text("{}")
    (copy / "README.md").write_text("notes")
    assert opened(copy) == opened(image_folder)
