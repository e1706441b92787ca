"""Statistics over exactly the episodes in use, and their cache."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.statistics import column_statistics, dataset_statistics
from vla_tune.schema import Embodiment


def opened(root: Path, body: Embodiment, episodes: list[int] | None = None) -> Demonstrations:
    return Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(4), episodes=episodes)


@given(chosen=st.sets(st.integers(0, 3), min_size=1))
@settings(deadline=None, max_examples=10)
def test_they_are_numpys_over_the_selected_episodes(
    chosen: set[int], image_folder: Path, body: Embodiment, recorded: list[list[dict]], tmp_path_factory: pytest.TempPathFactory
):
    dataset = opened(image_folder, body).select(sorted(chosen))
    statistics = dataset_statistics(dataset, cache=tmp_path_factory.mktemp("cache"))
    for key, column in (("action", statistics.action), ("observation.state", statistics.state)):
        values = np.array([row[key] for episode in sorted(chosen) for row in recorded[episode]], np.float64)
        assert np.allclose(column.mean, values.mean(0))
        assert np.allclose(column.std, values.std(0))
        assert np.allclose(column.min, values.min(0))
        assert np.allclose(column.max, values.max(0))
        assert np.allclose(column.q01, np.quantile(values, 0.01, axis=0))
        assert np.allclose(column.q99, np.quantile(values, 0.99, axis=0))
        assert column.mask == (True, True, True, False)
    assert statistics.num_trajectories == len(chosen)
    assert statistics.num_transitions == sum(len(recorded[episode]) for episode in chosen)


def test_a_union_is_the_whole(image_folder: Path, body: Embodiment, tmp_path: Path):
    dataset = opened(image_folder, body)
    whole = dataset_statistics(dataset, cache=tmp_path)
    parts = dataset_statistics(dataset.select([0, 1]), dataset.select([2, 3]), cache=tmp_path)
    assert parts.action == whole.action
    assert parts.num_trajectories == 4
    other = replace(body, name="other")
    with pytest.raises(ValueError, match=r"one embodiment, got \['tabletop', 'other'\]"):
        dataset_statistics(dataset, opened(image_folder, other), cache=tmp_path)


def test_relative_actions_are_described_as_the_model_sees_them(
    image_folder: Path, body: Embodiment, recorded: list[list[dict]], tmp_path: Path
):
    arm = replace(body.action[0], name="tool_position", representation="relative_to_first")
    relative = replace(body, action=(arm, body.action[1]))
    column = dataset_statistics(opened(image_folder, relative), cache=tmp_path).action
    values = []
    for rows in recorded:
        for start, row in enumerate(rows):
            state = np.append(row["observation.state"][:3], 0)
            values.extend(later["action"] - state for later in rows[start : start + 4])
    assert np.allclose(column.mean, np.mean(values, axis=0), atol=1e-6)
    assert np.allclose(column.max, np.max(values, axis=0), atol=1e-6)
    assert column != dataset_statistics(opened(image_folder, body), cache=tmp_path).action


def test_the_cache_is_used_and_beside_the_dataset_by_default(image_folder: Path, body: Embodiment, monkeypatch: pytest.MonkeyPatch):
    dataset = opened(image_folder, body)
    before = dataset_statistics(dataset)
    assert list((image_folder / "statistics").glob("*.json"))
    monkeypatch.setattr("vla_tune.data.statistics._compute", lambda _: pytest.fail("computed again"))
    assert dataset_statistics(dataset) == before


@pytest.mark.parametrize("damage", ["cut", "edited", "empty", "other key"])
def test_a_damaged_cache_is_never_trusted(
    damage: str, image_folder: Path, body: Embodiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    dataset = opened(image_folder, body)
    before = dataset_statistics(dataset, cache=tmp_path)
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    if damage == "edited":
        record["statistics"]["action"]["q99"][0] += 1
    if damage == "other key":
        record["key"] = "0" * 64
    text = json.dumps(record)
    path.write_text({"cut": text[:200], "empty": ""}.get(damage, text))
    with caplog.at_level(logging.WARNING):
        assert dataset_statistics(dataset, cache=tmp_path) == before
    assert "damaged" in caplog.text
    assert json.loads(path.read_text())["statistics"]["action"]["q99"] == list(before.action.q99)
    assert list(tmp_path.iterdir()) == [path]


def test_other_numbers_and_other_episodes_have_other_caches(image_folder: Path, body: Embodiment, tmp_path: Path):
    dataset = opened(image_folder, body)
    dataset_statistics(dataset, cache=tmp_path)
    dataset_statistics(dataset.select([0]), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_writable_folder_there_are_statistics_all_the_same(
    image_folder: Path, body: Embodiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert dataset_statistics(opened(image_folder, body), cache=tmp_path / "file").num_trajectories == 4
    assert "not cached" in caplog.text


def test_nan_and_nothing_are_refused(body: Embodiment):
    values = np.zeros((3, 4), np.float32)
    values[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"action: .* the first bad at \[\[1, 2\]\]"):
        column_statistics(values, body.action, name="action")
    with pytest.raises(ValueError, match="there are 0"):
        column_statistics(values[:0], body.action, name="action")
