"""Reading demonstrations: chunks, selection, and everything that can be wrong with a folder."""

import json
import logging
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.data.chunks import ChunksByTimestamp, RecordedChunks
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.inspection import check_headers
from vla_tune.data.sources import Hub, Local
from vla_tune.data.statistics import dataset_statistics
from vla_tune.data.videos import video_backend
from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import Embodiment, embodiment_from_record, to_record

KEY = "observation.images.front"


def opened(root: Path, body: Embodiment, **arguments: Any) -> Demonstrations:
    chosen: dict[str, Any] = {"chunks": ChunksByTimestamp(4)}
    return Demonstrations(root, embodiment=body, **(chosen | arguments))


def changed(root: Path, folder: Path, column: str, change: Any) -> Path:
    """A copy of the dataset with one column of its data file changed."""
    shutil.copytree(root, folder)
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = change(table[column].to_pylist())
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, table.field(index), pa.array(values, table.schema.field(column).type)), path)
    return folder


def test_a_sample_is_what_was_recorded(image_folder: Path, body: Embodiment, recorded: list[list[dict]]):
    dataset = opened(image_folder, body)
    assert len(dataset) == sum(map(len, recorded))
    rows = [(episode, frame) for episode, frames in enumerate(recorded) for frame in range(len(frames))]
    for sample, (episode, frame) in zip((dataset[index] for index in range(len(dataset))), rows, strict=True):
        source = recorded[episode][frame]
        assert np.array_equal(sample[KEY], source[KEY])
        assert np.array_equal(sample["observation.state"], source["observation.state"])
        assert sample["instruction"] == source["task"]
        assert sample["index"].tolist() == [episode, frame]
        assert sample["action_mask"].dtype == bool
        assert sample["actions"].dtype == np.float32


@pytest.mark.parametrize("horizon", [1, 4, 9])
def test_chunks_are_the_following_actions_and_masked_beyond_the_end(
    image_folder: Path, body: Embodiment, recorded: list[list[dict]], horizon: int
):
    dataset = opened(image_folder, body, chunks=ChunksByTimestamp(horizon))
    for index in range(len(dataset)):
        sample = dataset[index]
        episode, frame = sample["index"].tolist()
        actions = [row["action"] for row in recorded[episode]]
        for step in range(horizon):
            inside = frame + step < len(actions)
            assert sample["action_mask"][step].tolist() == [inside] * 4
            still = np.array([0, 0, 0, actions[-1][3]], np.float32)  # no motion; the suction stays as it is
            assert np.array_equal(sample["actions"][step], actions[frame + step] if inside else still)


def test_lerobot_reads_the_same(image_folder: Path, body: Embodiment):
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    deltas = {"action": [step / 10 for step in range(4)]}
    theirs = lerobot.LeRobotDataset("local/x", root=image_folder, delta_timestamps=deltas, video_backend=video_backend())
    ours = opened(image_folder, body)
    assert len(theirs) == len(ours)
    for index in range(len(ours)):
        sample, item = ours[index], theirs[index]
        counted = ~item["action_is_pad"].numpy()
        assert np.array_equal(sample["actions"][counted], item["action"].numpy()[counted])
        assert np.array_equal(sample["action_mask"][:, 0], counted)
        assert np.array_equal(sample[KEY], np.round(item[KEY].numpy().transpose(1, 2, 0) * 255).astype(np.uint8))
        assert sample["instruction"] == item["task"]


def test_videos_give_nearly_the_pictures_that_were_recorded(image_folder: Path, video_folder: Path, body: Embodiment):
    pictures, videos = opened(image_folder, body), opened(video_folder, body)
    for index in range(len(pictures)):
        difference = np.abs(pictures[index][KEY].astype(int) - videos[index][KEY])
        assert difference.mean() < 4  # neighbouring frames differ by 10 in one of three channels
        assert np.array_equal(pictures[index]["actions"], videos[index]["actions"])
    assert np.abs(videos[0][KEY][..., 2].astype(int) - videos[1][KEY][..., 2]).mean() > 5


@pytest.mark.parametrize("capacity", [0, 3 * 64 * 64 * 3, 10**9])
@pytest.mark.parametrize("folder", ["image_folder", "video_folder"])
def test_the_cache_never_changes_a_picture_and_keeps_to_its_size(
    folder: str, capacity: int, body: Embodiment, request: pytest.FixtureRequest
):
    root = request.getfixturevalue(folder)
    whole, small = opened(root, body), opened(root, body, cache_bytes=capacity)
    for index in [*range(len(whole)), *reversed(range(len(whole)))]:
        assert np.array_equal(whole[index][KEY], small[index][KEY])
    kept = small.images[KEY]._kept
    assert sum(picture.nbytes for picture in kept.values()) <= capacity
    assert len(kept) == min(len(whole), capacity // (64 * 64 * 3))


def test_pictures_are_kept_while_memory_is_free(
    image_folder: Path, body: Embodiment, recorded: list[list[dict]], monkeypatch: pytest.MonkeyPatch
):
    """Where there is none, no more are kept, and those that are read are the same; what others give back is used."""
    size, room = 64 * 64 * 3, [10**9, 2 * 64 * 64 * 3, -1]
    monkeypatch.setattr("vla_tune.data.cache.spare_memory", lambda: room.pop(0))
    dataset = opened(image_folder, body)
    for index in range(len(dataset)):
        sample = dataset[index]
        episode, frame = sample["index"].tolist()
        assert np.array_equal(sample[KEY], recorded[episode][frame][KEY])
    kept = dataset.images[KEY]._kept
    assert len(kept) == len(recorded[0]) + 2
    assert not room
    room += [len(dataset) * size] * len(recorded)
    for index in range(len(dataset) - 1, -1, -1):
        for _ in range(101):
            dataset[index]
    assert len(kept) == len(dataset)


def test_pictures_in_the_cache_cannot_be_overwritten(image_folder: Path, body: Embodiment):
    dataset = opened(image_folder, body, cache_bytes=10**9)
    with pytest.raises(ValueError, match="read-only"):
        dataset[0][KEY][:] = 0


def test_a_dataset_travels_to_a_worker(image_folder: Path, body: Embodiment):
    dataset = opened(image_folder, body)
    before = dataset[3]
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy[3][KEY], before[KEY])


def test_selected_episodes(image_folder: Path, body: Embodiment, recorded: list[list[dict]]):
    dataset = opened(image_folder, body, episodes=[3, 1])
    assert dataset.episodes == (1, 3)
    assert len(dataset) == len(recorded[1]) + len(recorded[3])
    assert {int(dataset[index]["index"][0]) for index in range(len(dataset))} == {1, 3}
    assert np.array_equal(dataset[len(recorded[1])][KEY], recorded[3][0][KEY])
    assert dataset.first_frames.tolist() == [0, len(recorded[1])]


@given(fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_split_is_by_whole_episodes_and_follows_from_the_seed(image_folder: Path, body: Embodiment, fraction: float, seed: int):
    dataset = opened(image_folder, body)
    training, validation = dataset.split(fraction, seed=seed)
    assert set(training.episodes) | set(validation.episodes) == set(dataset.episodes)
    assert not set(training.episodes) & set(validation.episodes)
    assert training.episodes
    assert validation.episodes
    assert len(training) + len(validation) == len(dataset)
    assert {int(validation[index]["index"][0]) for index in range(len(validation))} == set(validation.episodes)
    assert [int(validation[int(index)]["index"][1]) for index in validation.first_frames] == [0] * len(validation.episodes)
    assert dataset.split(fraction, seed=seed)[1].episodes == validation.episodes


def test_recorded_chunks(body: Embodiment, recorded: list[list[dict]], tmp_path: Path):
    rng = np.random.default_rng(1)
    frames = [[row | {"action_chunk": rng.normal(size=(3, 4)).astype(np.float32)} for row in rows] for rows in recorded]
    write_episodes(tmp_path / "data", frames, embodiment=body, storage=Storage(), extra={"action_chunk": (3, 4)})
    dataset = opened(tmp_path / "data", body, chunks=RecordedChunks(3))
    flat = [row for rows in frames for row in rows]
    for index, row in enumerate(flat):
        assert np.array_equal(dataset[index]["actions"], row["action_chunk"])
        assert dataset[index]["action_mask"].all()
    with pytest.raises(ValueError, match=r"'action_chunk' has shape \(3, 4\).*\(5, 4\)"):
        opened(tmp_path / "data", body, chunks=RecordedChunks(5))


def test_a_local_folder_never_asks_the_network(image_folder: Path, body: Embodiment, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert len(opened(image_folder, body)) == 16


def test_a_hub_dataset_is_downloaded_by_lerobot(image_folder: Path, body: Embodiment, monkeypatch: pytest.MonkeyPatch):
    asked = {}

    class Downloaded:
        def __init__(self, repo_id: str, **arguments: Any) -> None:
            asked.update(arguments, repo_id=repo_id)
            self.root = image_folder

    monkeypatch.setattr("lerobot.datasets.lerobot_dataset.LeRobotDataset", Downloaded)
    dataset = Hub("me/blocks", episodes=[1], revision="main").open(body, ChunksByTimestamp(2))
    assert dataset.episodes == (1,)
    assert asked == {"repo_id": "me/blocks", "episodes": [1], "revision": "main", "video_backend": video_backend()}


def test_a_missing_folder(tmp_path: Path, body: Embodiment):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        opened(tmp_path / "nowhere", body)
    with pytest.raises(FileNotFoundError, match=r"meta/info.json is missing"):
        opened(tmp_path, body)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("part", ["data", "meta/episodes", "meta/tasks.parquet"])
def test_an_incomplete_folder(part: str, image_folder: Path, body: Embodiment, tmp_path: Path):
    root = shutil.copytree(image_folder, tmp_path / "copy")
    shutil.rmtree(root / part) if (root / part).is_dir() else (root / part).unlink()
    with pytest.raises(FileNotFoundError, match=part):
        opened(root, body)


def test_an_older_version(image_folder: Path, body: Embodiment, tmp_path: Path):
    root = shutil.copytree(image_folder, tmp_path / "copy")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(ValueError, match=r"version 'v2.1', v3.0 is read: convert"):
        opened(root, body)
    (root / "meta/info.json").write_text("{")
    with pytest.raises(ValueError, match=r"info.json is damaged"):
        opened(root, body)


def test_another_robot(image_folder: Path, body: Embodiment):
    with pytest.raises(ValueError, match=r"no feature 'observation.stat'; the nearest is 'observation.state'"):
        opened(image_folder, replace(body, state_key="observation.stat"))
    with pytest.raises(ValueError, match=r"'observation.state' has shape \(4,\), 'tabletop' needs \(3,\)"):
        opened(image_folder, replace(body, state=body.state[:1]))
    with pytest.raises(ValueError, match=r"10 frames per second, 'tabletop' acts at 20 Hz"):
        opened(image_folder, replace(body, control_hz=20.0))
    camera = replace(body.cameras[0], height=32)
    with pytest.raises(ValueError, match=r"shape \(64, 64, 3\), 'tabletop' says \(32, 64\) pixels"):
        opened(image_folder, replace(body, cameras=(camera,)))
    camera = replace(body.cameras[0], key="observation.images.fron")
    with pytest.raises(ValueError, match=r"no feature 'observation.images.fron'; the nearest is 'observation.images.front'"):
        opened(image_folder, replace(body, cameras=(camera,)))


def test_a_rate_that_is_wrong_by_name_only_is_said(image_folder: Path, body: Embodiment):
    """As of public data of LIBERO: labelled with 10 frames a second, one for each of the robot's 20 actions a second."""
    quick = replace(body, control_hz=20.0)
    with pytest.raises(ValueError, match=r"only the label is wrong, say data.sources.0.labelled_hz=10"):
        Local(str(image_folder)).open(quick, ChunksByTimestamp(4))
    with pytest.raises(ValueError, match=r"has 10 frames per second, not labelled_hz=30"):
        Local(str(image_folder), labelled_hz=30.0).open(quick, ChunksByTimestamp(4))
    there = Local(str(image_folder), labelled_hz=10.0).open(quick, ChunksByTimestamp(4))
    assert there.embodiment.control_hz == 20
    plain = Local(str(image_folder)).open(body, ChunksByTimestamp(4))
    for key, value in plain[3].items():
        assert np.array_equal(value, there[3][key]), key


def test_bad_selections(image_folder: Path, body: Embodiment):
    with pytest.raises(ValueError, match=r"no episode of .* is selected: name some of 0..3"):
        opened(image_folder, body, episodes=[])
    with pytest.raises(ValueError, match=r"has no episodes \[4, -1\]: it has 0..3"):
        opened(image_folder, body, episodes=[0, 4, -1])
    dataset = opened(image_folder, body, episodes=[0, 1])
    with pytest.raises(ValueError, match=r"episodes \[2\] cannot be selected"):
        dataset.select([2])
    with pytest.raises(ValueError, match=r"cannot hold out 1\.0 of 2 episodes"):
        dataset.split(1.0, seed=0)
    with pytest.raises(ValueError, match="at least 2 episodes"):
        dataset.select([1]).split(0.5, seed=0)


@pytest.mark.parametrize(("column", "value"), [("action", np.nan), ("observation.state", np.inf)])
def test_nan_and_infinity_are_refused_by_name(column: str, value: float, image_folder: Path, body: Embodiment, tmp_path: Path):
    def change(values: list[list[float]]) -> list[list[float]]:
        values[5][2] = value
        return values

    root = changed(image_folder, tmp_path / "copy", column, change)
    with pytest.raises(ValueError, match=rf"'{column}' is {value} in episode 1, frame 2, dimension 2"):
        opened(root, body)
    assert len(opened(root, body, episodes=[0, 2, 3])) == 10


def test_frames_off_the_grid_are_refused_by_name(image_folder: Path, body: Embodiment, tmp_path: Path):
    def shift(values: list[float]) -> list[float]:
        return [value + 0.001 * (row == 8) for row, value in enumerate(values)]

    root = changed(image_folder, tmp_path / "copy", "timestamp", shift)
    with pytest.raises(
        ValueError, match=r"episode 1: frame 5 comes 0.1010 s after the one before, at 10 fps it should be 0.1000 s"
    ):
        opened(root, body)


def test_missing_frames_are_refused_by_name(image_folder: Path, body: Embodiment, tmp_path: Path):
    root = changed(
        image_folder, tmp_path / "a", "frame_index", lambda values: [value + (row == 5) for row, value in enumerate(values)]
    )
    with pytest.raises(ValueError, match=r"episode 1 has frame 3 where frame 2 should be"):
        opened(root, body)
    root = changed(image_folder, tmp_path / "b", "episode_index", lambda values: [1 if value == 2 else value for value in values])
    with pytest.raises(ValueError, match=r"lacks the episodes \[2\]"):
        opened(root, body)


def test_a_damaged_data_file(image_folder: Path, body: Embodiment, tmp_path: Path):
    root = shutil.copytree(image_folder, tmp_path / "copy")
    path = root / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"file-000.parquet cannot be read .*it is damaged"):
        opened(root, body)


def test_a_damaged_picture_is_refused_by_name(image_folder: Path, body: Embodiment, tmp_path: Path):
    def cut(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [value | {"bytes": value["bytes"][: 60 if row == 4 else None]} for row, value in enumerate(values)]

    root = changed(image_folder, tmp_path / "copy", KEY, cut)
    dataset = opened(root, body)
    with pytest.raises(ValueError, match=r"file-000.parquet: 'observation.images.front' of episode 1, frame 1 cannot be decoded"):
        dataset[4]
    with pytest.raises(ValueError, match="episode 1, frame 1"):
        dataset.check_images()


def test_a_cut_off_video_is_refused_by_name(video_folder: Path, body: Embodiment, tmp_path: Path):
    root = shutil.copytree(video_folder, tmp_path / "copy")
    path = next(root.glob("videos/*/*/*.mp4"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    dataset = opened(root, body)
    with pytest.raises(ValueError, match=r"file-000.mp4: 'observation.images.front' of episode \d, frame \d cannot be decoded"):
        dataset.check_images()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"file-000.mp4 of episode 0 is missing"):
        opened(root, body)


def test_the_video_decoder_is_chosen_once_and_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def missing(name: str) -> None:
        raise RuntimeError("no FFmpeg")

    monkeypatch.setattr("vla_tune.data.videos.import_module", missing)
    video_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        assert [video_backend(), video_backend()] == ["pyav", "pyav"]
    assert [record.message for record in caplog.records if "PyAV" in record.message].__len__() == 1
    video_backend.cache_clear()


def test_a_chunk_needs_an_action():
    with pytest.raises(ValueError, match="horizon=0"):
        ChunksByTimestamp(0)


def test_a_picture_that_is_a_program_is_not_run(image_folder: Path, body: Embodiment, tmp_path: Path):
    """PIL gives EPS to Ghostscript."""
    height, width = body.cameras[0].height, body.cameras[0].width
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {width} {height}\n%%EndComments\n(x) (w) file\n%%EOF\n".encode()
    copy = changed(image_folder, tmp_path / "copy", KEY, lambda values: [{**value, "bytes": program} for value in values])
    for read in (check_headers, lambda dataset: dataset[0]):
        with pytest.raises(ValueError, match="cannot be decoded"):
            read(opened(copy, body))


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile /etc/passwd\n", ""])
def test_a_film_that_is_a_list_of_files_is_not_opened(video_folder: Path, body: Embodiment, tmp_path: Path, text: str):
    copy = Path(shutil.copytree(video_folder, tmp_path / "copy"))
    next(copy.glob("videos/**/*.mp4")).write_text(text)
    with pytest.raises(ValueError, match="is no MP4 or Matroska film"):
        opened(copy, body)


def test_a_few_bytes_are_no_million_frames(image_folder: Path, body: Embodiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vla_tune.data.folder._MANY_VALUES", 10_000)
    copy = Path(shutil.copytree(image_folder, tmp_path / "copy"))
    path = copy / "meta/tasks.parquet"
    pq.write_table(pa.table({"task_index": np.zeros(2**18, np.int64), "task": pa.nulls(2**18, pa.string())}), path)
    with pytest.raises(ValueError, match="unpacks 524,288 values out of"):
        opened(copy, body)


@pytest.mark.parametrize("name", ["data/chunk-000/file-001.parquet", "meta/episodes/chunk-000/file-001.parquet"])
def test_nothing_waits_for_a_pipe(image_folder: Path, body: Embodiment, tmp_path: Path, name: str):
    copy = Path(shutil.copytree(image_folder, tmp_path / "copy"))
    os.mkfifo(copy / name)
    with pytest.raises(ValueError, match="is no file"):
        opened(copy, body)


def test_values_in_another_unit_are_converted_and_that_is_said(
    image_folder: Path, body: Embodiment, caplog: pytest.LogCaptureFixture
):
    """Exactly once, by name, before statistics are made of them."""
    arm = replace(body, state=(replace(body.state[0], name="joints", unit="deg"), body.state[1]))
    plain = Demonstrations(image_folder, embodiment=arm, chunks=ChunksByTimestamp(2))
    with caplog.at_level("WARNING"):
        turned = Demonstrations(image_folder, embodiment=arm, chunks=ChunksByTimestamp(2), units={"joints": "rad"})
    assert "state joints from rad to deg" in caplog.text
    assert np.allclose(turned.frames.state[:, :3], np.degrees(plain.frames.state[:, :3].astype(np.float64)), rtol=1e-6)
    assert np.array_equal(turned.frames.state[:, 3], plain.frames.state[:, 3])
    assert np.array_equal(turned.frames.actions, plain.frames.actions)
    assert np.array_equal(turned[1][arm.state_key], turned.frames.state[1])
    with pytest.raises(ValueError, match="state joints is in %, the embodiment says deg"):
        Demonstrations(image_folder, embodiment=arm, chunks=ChunksByTimestamp(2), units={"joints": "%"})


@pytest.mark.parametrize("left_out", [False, True])
def test_a_robot_without_a_state(left_out: bool, image_folder: Path, recorded, body: Embodiment, tmp_path: Path):
    """Recorded without the column, or with one that the embodiment leaves out."""
    bare = embodiment_from_record(to_record(body) | {"state": [], "state_key": None})
    root = image_folder if left_out else tmp_path / "bare"
    if not left_out:
        without = [[{key: value for key, value in frame.items() if key != body.state_key} for frame in rows] for rows in recorded]
        write_episodes(root, without, embodiment=bare, storage=Storage("image"))
        assert body.state_key not in json.loads((root / "meta/info.json").read_text())["features"]
    data = Demonstrations(root, embodiment=bare, chunks=ChunksByTimestamp(2))
    assert data[0][bare.state_key].shape == (0,)
    statistics = dataset_statistics(data, cache=tmp_path / "statistics")
    assert statistics.state.mean == statistics.state.normalization == ()
    assert len(statistics.action.mean) == 4
