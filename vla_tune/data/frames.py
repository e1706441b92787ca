"""The numeric columns of a LeRobotDataset v3.0, in memory, checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int, Int64
from pyarrow import dataset as arrow

VERSION = "v3."
TOLERANCE_S = 1e-4
"""LeRobot's: how far a time stamp may lie from its place in the grid of 1 / fps."""


@dataclass(frozen=True, eq=False)
class Frames:
    """One row for each frame, sorted by episode and frame."""

    state: Float32[np.ndarray, "N S"]
    actions: Float32[np.ndarray, "N A"]
    extra: Mapping[str, np.ndarray]
    """Further columns that the chunks need."""
    timestamp: Float64[np.ndarray, " N"]
    """Seconds since the episode's start."""
    episode: Int64[np.ndarray, " N"]
    frame: Int64[np.ndarray, " N"]
    index: Int64[np.ndarray, " N"]
    """The row in the whole dataset."""
    end: Int64[np.ndarray, " N"]
    """The position here at which the row's episode is over."""
    task: Int64[np.ndarray, " N"]
    """Position in `tasks`."""
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        """N."""
        return len(self.frame)


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
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): copy or record the dataset again.") from None
    version = info.get("codebase_version")
    if not str(version).startswith(VERSION):
        raise ValueError(
            f"{root} has version {version!r}, v3.0 is read: convert it with LeRobot's convert_dataset_v21_to_v30 script first."
        )
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


def read_frames(
    root: Path,
    *,
    state_key: str,
    action_key: str,
    extra: Mapping[str, tuple[int, ...]],
    tasks: Sequence[str],
    episodes: Sequence[int],
) -> Frames:
    """The columns of some episodes; images stay on disk.

    Raises:
        ValueError: a file is damaged, an episode is missing, or a value is NaN, infinite or absent.
    """
    keys = [state_key, action_key, *extra, "timestamp", "episode_index", "frame_index", "index", "task_index"]
    wanted = arrow.field("episode_index").isin(list(episodes))
    try:
        table = arrow.dataset(sorted(root.glob("data/*/*.parquet")), format="parquet").to_table(columns=keys, filter=wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{root}/data cannot be read ({_first_line(error)}): a file is damaged, copy it again.") from None
    table = table.sort_by([("episode_index", "ascending"), ("frame_index", "ascending")])
    whole = {key: table[key].to_numpy().astype(np.int64) for key in ("episode_index", "frame_index", "index", "task_index")}
    if missing := sorted(set(episodes) - set(whole["episode_index"].tolist())):
        raise ValueError(f"{root}/data lacks the episodes {missing} that meta/ lists: the copy is incomplete.")
    names = [state_key, action_key, *extra]
    columns = {key: _matrix(table[key], key, whole, extra.get(key)) for key in names}
    frames = Frames(
        state=columns[state_key],
        actions=columns[action_key],
        extra={key: columns[key] for key in extra},
        timestamp=table["timestamp"].to_numpy().astype(np.float64).reshape(-1),
        episode=whole["episode_index"],
        frame=whole["frame_index"],
        index=whole["index"],
        end=np.searchsorted(whole["episode_index"], whole["episode_index"], side="right").astype(np.int64),
        task=whole["task_index"],
        tasks=tuple(tasks),
    )
    _check_order(frames, root)
    return frames


def check_times(frames: Frames, fps: float) -> None:
    """Refuse frames that are not 1 / fps apart.

    Raises:
        ValueError: naming the episode and the frame.
    """
    errors = np.abs(np.diff(frames.timestamp) - 1 / fps)
    errors[np.diff(frames.episode) != 0] = 0
    if len(errors) and errors.max() > TOLERANCE_S:
        row = int(errors.argmax())
        gap = frames.timestamp[row + 1] - frames.timestamp[row]
        raise ValueError(
            f"episode {frames.episode[row]}: frame {frames.frame[row + 1]} comes {gap:.4f} s after the one before, at {fps:g} fps "
            f"it should be {1 / fps:.4f} s (tolerance {TOLERANCE_S} s). Exclude the episode or resample it."
        )


def check_finite(
    values: Float32[np.ndarray, "N ..."], name: str, episode: Int[np.ndarray, " N"], frame: Int[np.ndarray, " N"]
) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: naming episode, frame and dimension.
    """
    if np.isfinite(values).all():
        return
    row, *where = (int(place) for place in np.argwhere(~np.isfinite(values))[0])
    raise ValueError(
        f"{name!r} is {values[(row, *where)]} in episode {episode[row]}, frame {frame[row]}, dimension {where[-1]}: "
        "repair the recording or exclude the episode."
    )


def _matrix(
    column: pa.ChunkedArray, key: str, whole: Mapping[str, np.ndarray], shape: tuple[int, ...] | None
) -> Float32[np.ndarray, "N ..."]:
    array = column.combine_chunks()
    rows = len(array)
    while isinstance(array, pa.ExtensionArray) or pa.types.is_nested(array.type):
        array = array.storage if isinstance(array, pa.ExtensionArray) else array.flatten()
    values = array.to_numpy(zero_copy_only=False).astype(np.float32)
    width = int(np.prod(shape)) if shape else len(values) // max(rows, 1)
    if len(values) != rows * width:
        raise ValueError(f"{key!r} holds {len(values)} values in {rows} frames: some frame lacks values; record it again.")
    values = values.reshape(rows, *(shape or (width,)))
    check_finite(values, key, whole["episode_index"], whole["frame_index"])
    values.flags.writeable = False  # samples are views
    return values


def _check_order(frames: Frames, root: Path) -> None:
    starts = np.flatnonzero(np.diff(frames.episode, prepend=-1))
    expected = np.arange(len(frames)) - np.repeat(starts, np.diff(starts, append=len(frames)))
    if (wrong := np.flatnonzero(frames.frame != expected)).size:
        row = wrong[0]
        raise ValueError(
            f"{root}: episode {frames.episode[row]} has frame {frames.frame[row]} where frame {expected[row]} should be: "
            "frames are missing or doubled; exclude the episode or record it again."
        )
    if frames.task.max(initial=-1) >= len(frames.tasks):
        raise ValueError(
            f"{root}: task {frames.task.max()} is used, meta/tasks.parquet has {len(frames.tasks)}: the copy is incomplete."
        )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
