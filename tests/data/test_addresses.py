"""Pictures, sentences and times are read from where they were written, whatever the derived columns say."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.schema import Embodiment

KEY = "observation.images.front"
DATA, TASKS, EPISODES = "data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"
NEAR = 5
"""Neighbouring frames differ by 10 in one of three channels, other episodes by 40; compression costs less."""

Rewrite = Callable[..., Path]
Replace = Callable[[pa.Table, str, Any], pa.Table]


def opened(root: Path, body: Embodiment, **options: Any) -> Demonstrations:
    return Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(2), **options)


def assert_as_recorded(data: Demonstrations, recorded: list[list[dict]], numbers: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """Every frame has its own numbers, sentence and picture."""
    for sample in (data[index] for index in range(len(data))):
        episode, frame = sample["index"].tolist()
        source = recorded[numbers.index(episode)][frame]
        assert np.array_equal(sample["actions"][0], source["action"])
        assert sample["instruction"] == source["task"]
        assert np.abs(sample[KEY].astype(int) - source[KEY])[..., 2].mean() < NEAR


@pytest.mark.parametrize(
    "index",
    [[*range(8), *range(8)], [*range(3), *range(10, 23)], [0] * 16, list(range(100, 116))],
    ids=["begins anew", "has a gap", "is constant", "begins late"],
)
def test_pictures_do_not_depend_on_the_index_column(
    index: list[int], image_folder: Path, body: Embodiment, recorded: list[list[dict]], rewritten: Rewrite, replaced: Replace
):
    root = rewritten(image_folder, DATA, lambda table: replaced(table, "index", index))
    assert_as_recorded(opened(root, body), recorded)


def test_pictures_are_found_in_files_and_rows_of_any_order(
    image_folder: Path, body: Embodiment, recorded: list[list[dict]], rewritten: Rewrite
):
    order = np.random.default_rng(0).permutation(16)
    root = rewritten(image_folder, DATA, lambda table: table.take(order[:9]))
    whole = pq.ParquetFile(image_folder / DATA).read()
    pq.write_table(whole.take(order[9:]), root / "data/chunk-000/file-001.parquet", row_group_size=3)
    assert_as_recorded(opened(root, body), recorded)
    assert_as_recorded(opened(root, body, episodes=[1, 3]), recorded)


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [3, 2, 1, 0]])
def test_videos_are_found_by_the_number_of_the_episode(
    order: list[int], video_folder: Path, body: Embodiment, recorded: list[list[dict]], rewritten: Rewrite
):
    root = rewritten(video_folder, EPISODES, lambda table: table.take(order))
    assert_as_recorded(opened(root, body), recorded)


def test_episodes_that_were_removed_leave_the_others_their_numbers(
    video_folder: Path, body: Embodiment, recorded: list[list[dict]], rewritten: Rewrite, replaced: Replace
):
    numbers = (0, 2, 3, 7)
    root = rewritten(video_folder, EPISODES, lambda table: replaced(table, "episode_index", numbers))
    of_frames = [number for number, frames in zip(numbers, recorded, strict=True) for _ in frames]
    root = rewritten(root, DATA, lambda table: replaced(table, "episode_index", of_frames), "renumbered")
    data = opened(root, body)
    assert data.episodes == numbers
    assert_as_recorded(data, recorded, numbers)
    with pytest.raises(ValueError, match=r"has no episodes \[1\]: it has 0, 2\.\.3, 7"):
        opened(root, body, episodes=[0, 1])


def test_an_episode_that_is_listed_twice_is_refused(image_folder: Path, body: Embodiment, rewritten: Rewrite, replaced: Replace):
    root = rewritten(image_folder, EPISODES, lambda table: replaced(table, "episode_index", [0, 1, 2, 2]))
    with pytest.raises(ValueError, match="lists episode 2 twice"):
        opened(root, body)


def test_a_list_that_is_shorter_than_info_says_is_refused(image_folder: Path, body: Embodiment, rewritten: Rewrite):
    root = rewritten(image_folder, EPISODES, lambda table: table.slice(0, 3))
    with pytest.raises(ValueError, match=r"counts 4 episodes, meta/episodes lists 3: .*data\.sources\.0\.episodes="):
        opened(root, body)
    assert opened(root, body, episodes=[0, 2]).episodes == (0, 2)


def test_an_episode_that_lacks_its_end_is_refused(image_folder: Path, body: Embodiment, rewritten: Rewrite):
    root = rewritten(image_folder, DATA, lambda table: table.slice(0, 15))
    with pytest.raises(ValueError, match=r"episode 3 has 4 frames, meta/episodes says 5: .*exclude=\[3\]"):
        opened(root, body)
    assert opened(root, body, exclude=[3]).episodes == (0, 1, 2)


def test_sentences_are_found_by_their_number(
    image_folder: Path, body: Embodiment, recorded: list[list[dict]], rewritten: Rewrite, replaced: Replace
):
    places = {"lift the red block": 5, "touch the blue block": 1}
    used = [places[frame["task"]] for frames in recorded for frame in frames]
    root = rewritten(image_folder, DATA, lambda table: replaced(table, "task_index", used))
    rows = pa.table({"task_index": [3, 1, 5], "task": ["of another", "touch the blue block", "lift the red block"]})
    pq.write_table(rows, root / TASKS)
    assert_as_recorded(opened(root, body), recorded)


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_a_frame_without_a_sentence_is_refused_by_name(
    number: int, image_folder: Path, body: Embodiment, rewritten: Rewrite, replaced: Replace
):
    def change(table: pa.Table) -> pa.Table:
        return replaced(
            table, "task_index", [number if row == 4 else old for row, old in enumerate(table["task_index"].to_pylist())]
        )

    root = rewritten(image_folder, DATA, change)
    with pytest.raises(ValueError, match=rf"episode 1, frame 1 has task_index {number}, .* has 0, 1: .*exclude=\[1\]"):
        opened(root, body)
    assert 1 not in opened(root, body, exclude=[1]).episodes


def test_a_number_of_two_sentences_is_refused(image_folder: Path, body: Embodiment, rewritten: Rewrite, replaced: Replace):
    root = rewritten(image_folder, TASKS, lambda table: replaced(table, "task_index", [0, 0]))
    with pytest.raises(ValueError, match="several sentences for task_index 0"):
        opened(root, body)


@pytest.mark.parametrize(("first", "step"), [(0.0, 6 / 10), (0.1, 0.0), (1e4, 0.0)])
def test_times_that_begin_elsewhere_move_no_picture(
    first: float,
    step: float,
    video_folder: Path,
    body: Embodiment,
    recorded: list[list[dict]],
    rewritten: Rewrite,
    replaced: Replace,
    caplog: pytest.LogCaptureFixture,
):
    times = [first + step * episode + frame / 10 for episode, frames in enumerate(recorded) for frame in range(len(frames))]
    root = rewritten(video_folder, DATA, lambda table: replaced(table, "timestamp", times))
    with caplog.at_level(logging.WARNING):
        data = opened(root, body)
    assert caplog.text.count("pictures are found by the frame's number") == 1
    assert_as_recorded(data, recorded)


def test_a_video_that_shows_fewer_frames_than_the_episode_has_is_refused(
    video_folder: Path, body: Embodiment, rewritten: Rewrite, replaced: Replace
):
    column = f"videos/{KEY}/to_timestamp"
    root = rewritten(video_folder, EPISODES, lambda table: replaced(table, column, [0.3, 0.8, 1.1, 1.6]))
    with pytest.raises(ValueError, match=r"shows episode 1 in 5.0 frames, the data have 6 .*exclude=\[1\]"):
        opened(root, body)


def test_times_and_numbers_that_disagree_over_a_longer_video_are_refused(
    video_folder: Path, body: Embodiment, recorded: list[list[dict]], rewritten: Rewrite, replaced: Replace
):
    """An episode whose beginning was cut from the data and not from the video: the times are right, the numbers are not."""
    column = f"videos/{KEY}/to_timestamp"
    root = rewritten(video_folder, EPISODES, lambda table: replaced(table, column, [0.5, 0.9, 1.1, 1.6]))
    times = [0.2 * (episode == 0) + frame / 10 for episode, frames in enumerate(recorded) for frame in range(len(frames))]
    root = rewritten(root, DATA, lambda table: replaced(table, "timestamp", times), "moved")
    with pytest.raises(ValueError, match=r"shows episode 0 in 5.0 frames, the data have 3 from 0.2000 s on"):
        opened(root, body)


@pytest.mark.parametrize("name", ["pick (2)", "alone[v2]", "pick[2]", "a=1, b*?", "é{x}"])
def test_a_folder_is_no_pattern(
    name: str, video_folder: Path, image_folder: Path, body: Embodiment, recorded: list[list[dict]], tmp_path: Path
):
    shutil.copytree(image_folder, tmp_path / "pick2")
    root = shutil.copytree(video_folder, tmp_path / name)
    shutil.rmtree(tmp_path / "pick2" / "meta" / "episodes")
    assert_as_recorded(opened(root, body), recorded)


@pytest.mark.parametrize("path", ["../{video_key}.mp4", "/etc/{video_key}", "{video_key.__class__}", "{file_index:0999d}"])
def test_videos_lie_in_the_folder(path: str, video_folder: Path, body: Embodiment, tmp_path: Path):
    root = shutil.copytree(video_folder, tmp_path / "copy")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"video_path": path}))
    with pytest.raises(ValueError, match=r"video_path .* is none of LeRobot's"):
        opened(root, body)
