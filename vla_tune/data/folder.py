"""What the folder of a LeRobotDataset v3.0 says about itself: features, tasks, and where each episode lies."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VERSION = "v3."
_VIDEO_FIELD = re.compile(r"\{(video_key|chunk_index|file_index)(:0\dd)?\}")
_MANY_VALUES, _MOST_VALUES_PER_BYTE = 2**25, 128
_TASK_COLUMNS = ("task", "__index_level_0__")
"""LeRobot's names for the sentences, new and old."""


@dataclass(frozen=True)
class Span:
    """Where a video shows an episode."""

    file: Path
    start_s: float
    end_s: float


def leave_out(episode: SupportsInt) -> str:
    """The setting that leaves an episode out, as it is written."""
    return f"leave it out with data.sources.0.exclude=[{int(episode)}] (0 is the first source)"


def check_folder(root: Path) -> dict[str, Any]:
    """`meta/info.json` of a LeRobotDataset v3.0.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: it is something else, or of another version.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"dataset folder {root} does not exist: record it, or correct the path.")
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise FileNotFoundError(f"{root} is no LeRobotDataset (meta/info.json is missing): give the folder above meta/.")
    try:
        info = json.loads(path.read_text())
        version = info.get("codebase_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy or record the dataset again.") from None
    if not str(version).startswith(VERSION):
        raise ValueError(
            f"{root} has version {version!r}, v3.0 is read: convert it with LeRobot's convert_dataset_v21_to_v30 script first."
        )
    if lacking := [key for key in ("features", "fps", "total_episodes") if key not in info]:
        raise ValueError(f"{path} lacks {lacking}: copy or record the dataset again.")
    if isinstance(fps := info["fps"], bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise ValueError(f"{path}: fps is {fps!r}: it is a number of frames per second.")
    for pattern in ("meta/tasks.parquet", "meta/episodes/*/*.parquet", "data/*/*.parquet"):
        if not any(root.glob(pattern)):
            raise FileNotFoundError(f"{root} has no {pattern}: the recording was interrupted or the copy is incomplete.")
    return info


def feature(info: Mapping[str, Any], key: str, root: Path) -> Mapping[str, Any]:
    """The feature named `key`.

    Raises:
        ValueError: there is none; the nearest name is given.
    """
    if key in (features := info["features"]):
        return features[key]
    near = get_close_matches(key, features, n=1, cutoff=0.0)
    raise ValueError(f"{root} has no feature {key!r}; the nearest is {near[0]!r} of {sorted(features)}. Correct the embodiment.")


def column_names(info: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """What the dataset calls the dimensions of a feature, in the order of its values; None where it does not say.

    LeRobot writes a list, or a mapping with the list under one key such as `motors`, or name -> place.
    """
    names = info["features"].get(key, {}).get("names")
    if isinstance(names, Mapping):
        values = list(names.values())
        if sorted(values, key=str) == list(range(len(values))):
            names = sorted(names, key=names.__getitem__)
        else:
            names = values[0] if len(values) == 1 else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def is_depth(described: Mapping[str, Any]) -> bool:
    """Whether a feature holds distances and no colours, as LeRobot marks it."""
    info, video = described.get("info") or {}, described.get("video_info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map") or video.get("video.is_depth_map"))


def read_tasks(root: Path) -> dict[int, str]:
    """Sentences by the number that frames name them with.

    Raises:
        ValueError: the file is damaged, or a number stands for two sentences.
    """
    path = root / "meta" / "tasks.parquet"
    with parquet(path) as file:
        text = next((name for name in _TASK_COLUMNS if name in file.schema_arrow.names), _TASK_COLUMNS[0])
        table = columns_of(file, path, ["task_index", text])
    sentences: dict[int, str] = {}
    for number, sentence in zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True):
        if number in sentences:
            raise ValueError(f"{path} has several sentences for task_index {number}: give each a number of its own.")
        sentences[number] = str(sentence)
    return sentences


def read_episodes(root: Path, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of `meta/episodes` with the episodes' numbers, `episode_index`, sorted by them.

    Raises:
        ValueError: a file is damaged, a column is missing, or an episode is listed twice.
    """
    wanted = ["episode_index", *columns]
    parts = [_read(path, wanted) for path in sorted(root.glob("meta/episodes/*/*.parquet"))]
    read = {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in wanted}
    order = np.argsort(read["episode_index"], kind="stable")
    numbers = read["episode_index"][order]
    if (doubled := numbers[1:][np.diff(numbers) == 0]).size:
        raise ValueError(f"{root}/meta/episodes lists episode {doubled[0]} twice: number the episodes anew.")
    return {name: values[order] for name, values in read.items()}


def video_columns(key: str) -> list[str]:
    """Columns of `meta/episodes` that say where a camera's video shows an episode."""
    return [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]


def video_spans(root: Path, info: Mapping[str, Any], key: str, listed: Mapping[str, np.ndarray]) -> dict[int, Span]:
    """Where the videos of a camera show the listed episodes, by the episodes' numbers.

    Raises:
        ValueError: `video_path` of meta/info.json is no pattern of LeRobot's, or leads out of the folder.
    """
    pattern = str(info.get("video_path"))
    plain = _VIDEO_FIELD.sub("", pattern)
    if "{" in plain or "}" in plain or Path(pattern).is_absolute() or ".." in Path(pattern).parts or ".." in Path(key).parts:
        raise ValueError(
            f"{root}/meta/info.json: video_path {pattern!r} is none of LeRobot's: it has the fields video_key, chunk_index and "
            "file_index, and stays in the folder."
        )
    rows = zip(*(listed[name].tolist() for name in ("episode_index", *video_columns(key))), strict=True)
    return {
        int(episode): Span(root / pattern.format(video_key=key, chunk_index=int(chunk), file_index=int(file)), start, end)
        for episode, chunk, file, start, end in rows
    }


@contextmanager
def parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file, taken by its very path.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: copy or record it again.")
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({said}): it is damaged, copy or record it again.") from None


def columns_of(file: pq.ParquetFile, path: Path, wanted: Sequence[str]) -> pa.Table:
    """Columns of an open file.

    Raises:
        ValueError: it lacks one.
    """
    if lacking := [name for name in wanted if name not in file.schema_arrow.names]:
        raise ValueError(f"{path} has no column {lacking}: the copy is incomplete, or another program wrote it.")
    _check_size(file, path, wanted)
    return file.read(columns=list(wanted))


def _check_size(file: pq.ParquetFile, path: Path, wanted: Sequence[str]) -> None:
    """One value can be written as often as one likes in a few bytes."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    values = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted)
    if values > _MANY_VALUES and values > _MOST_VALUES_PER_BYTE * (size := path.stat().st_size):
        raise ValueError(f"{path} unpacks {values:,} values out of {size:,} bytes: no recording does; copy or record it again.")


def _read(path: Path, wanted: Sequence[str]) -> pa.Table:
    with parquet(path) as file:
        return columns_of(file, path, wanted)
