"""What a data set's folder holds for a robot, checked before anything is learned from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_tune.data.folder import (
    check_folder,
    column_names,
    feature,
    is_depth,
    leave_out,
    read_episodes,
    read_tasks,
    video_columns,
    video_spans,
)
from vla_tune.data.frames import Frames, check_times, converted, read_frames
from vla_tune.data.images import FrameSource, ParquetImages
from vla_tune.data.names import with_names
from vla_tune.data.videos import Videos
from vla_tune.schema import Camera, Embodiment, conversion, same_rate


@dataclass(frozen=True, eq=False)
class Opened:
    """A LeRobotDataset v3.0 that holds what an embodiment needs."""

    embodiment: Embodiment
    """With the names of dimensions that the data set tells."""
    episodes: tuple[int, ...]
    """In use, in order."""
    frames: Frames
    """Of these episodes, in the embodiment's units."""
    pictures: Mapping[str, FrameSource]
    """Of each camera key."""


def opened(
    root: Path,
    body: Embodiment,
    *,
    columns: dict[str, tuple[int, ...]],
    episodes: Sequence[int] | None,
    exclude: Sequence[int],
    units: Mapping[str, str],
    labelled_hz: float | None,
) -> Opened:
    """Read the numbers of a folder's episodes, and where its pictures are.

    Args:
        root: The folder.
        body: What it must hold.
        columns: Further columns to read, with the shape of a row.
        episodes: Which to use, by number; None for all.
        exclude: Which of them to leave out.
        units: Group -> its unit in the data set, where that is not the embodiment's.
        labelled_hz: The data set's own name for its rate, where its steps are the embodiment's all the same.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: it is no v3.0 dataset, its keys, shapes or rate are not the embodiment's, a selection is empty or out of range,
            or a number is NaN or infinite.
    """
    info, there = check_folder(root), conversion(body, units, source=str(root))
    shapes = _shapes(body) | columns
    _check_features(info, body, shapes, root)
    _check_rate(float(info["fps"]), body, labelled_hz, root)
    filmed = [camera for camera in body.cameras if info["features"][camera.key]["dtype"] == "video"]
    listed = read_episodes(root, ["length", *(column for camera in filmed for column in video_columns(camera.key))])
    chosen = _selected(episodes, exclude, listed["episode_index"].tolist(), info["total_episodes"], root)
    names = {key: column_names(info, key) for key in (body.state_key, body.action_key)}
    named = with_names(body, names[body.state_key], names[body.action_key], source=str(root))
    keys = {"state_key": body.state_key, "action_key": body.action_key}
    read = read_frames(root, **keys, shapes=shapes, tasks=read_tasks(root), episodes=chosen)
    frames = converted(read, there, source=root)
    _check_lengths(frames, listed, root)
    check_times(frames, float(info["fps"]))
    return Opened(named, chosen, frames, {camera.key: _source(camera, info, listed, root, frames) for camera in body.cameras})


def _shapes(body: Embodiment) -> dict[str, tuple[int, ...]]:
    """Of a row of the robot's own columns."""
    own = {body.state_key: (body.state_dimension,)} if body.state else {}
    return own | {body.action_key: (body.action_dimension,)}


def _selected(
    episodes: Sequence[int] | None, exclude: Sequence[int], listed: Sequence[int], total: int, root: Path
) -> tuple[int, ...]:
    if episodes is None and len(listed) != total:
        raise ValueError(
            f"{root}: meta/info.json counts {total} episodes, meta/episodes lists {len(listed)}: the copy is incomplete. If some "
            "were removed on purpose, correct total_episodes, or name those to use with data.sources.0.episodes=[...]."
        )
    known = set(listed)
    if outside := [episode for episode in (*(episodes or ()), *exclude) if episode not in known]:
        raise ValueError(f"{root} has no episodes {outside}: it has {_ranges(listed)}.")
    chosen = sorted({int(episode) for episode in (listed if episodes is None else episodes)} - set(exclude))
    if not chosen:
        raise ValueError(f"no episode of {root} is selected: name some of {_ranges(listed)}, or leave the selection out for all.")
    return tuple(chosen)


def _ranges(numbers: Sequence[int]) -> str:
    """Written as 0..3, 5, 7..9."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    parts = [part.tolist() for part in np.split(np.asarray(numbers), breaks)]
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}..{part[-1]}" for part in parts if part)


def _check_lengths(frames: Frames, listed: Mapping[str, np.ndarray], root: Path) -> None:
    lengths = dict(zip(listed["episode_index"].tolist(), listed["length"].tolist(), strict=True))
    first = frames.frame == 0
    for episode, end, start in zip(frames.episode[first].tolist(), frames.end[first].tolist(), np.flatnonzero(first), strict=True):
        if lengths[episode] != end - start:
            raise ValueError(
                f"{root}: episode {episode} has {end - start} frames, meta/episodes says {lengths[episode]}: the copy is "
                f"incomplete; copy it again, or {leave_out(episode)}."
            )


def _check_features(info: dict[str, Any], body: Embodiment, shapes: Mapping[str, tuple[int, ...]], root: Path) -> None:
    for key, shape in shapes.items():
        found = tuple(feature(info, key, root)["shape"])
        if found != shape:
            raise ValueError(
                f"{root}: {key!r} has shape {found}, {body.name!r} needs {shape}. Correct the embodiment or the dataset."
            )
    for camera in body.cameras:
        described, size = feature(info, camera.key, root), (camera.height, camera.width)
        if (found := tuple(described["shape"])) not in ((*size, 3), (3, *size)):
            raise ValueError(f"{root}: {camera.key!r} has shape {found}, {body.name!r} says {size} pixels. Correct the embodiment.")
        if is_depth(described) or described["dtype"] not in ("image", "video"):
            raise ValueError(
                f"{root}: {camera.key!r} holds {'distances (a depth map)' if is_depth(described) else described['dtype']} and no "
                "pictures of colours: name a colour camera in the embodiment."
            )


def _check_rate(fps: float, body: Embodiment, labelled_hz: float | None, root: Path) -> None:
    if labelled_hz is not None and not same_rate(fps, labelled_hz):
        raise ValueError(f"{root} has {fps:g} frames per second, not labelled_hz={labelled_hz:g}: say what it has, or null.")
    if labelled_hz is None and not same_rate(fps, body.control_hz):
        rates = f"{fps:g} frames per second, {body.name!r} acts at {body.control_hz:g} Hz"
        raise ValueError(
            f"{root} has {rates}: resample the dataset or correct the embodiment; if its steps are the robot's and only the label "
            f"is wrong, say data.sources.0.labelled_hz={fps:g}."
        )


def _source(camera: Camera, info: dict[str, Any], listed: Mapping[str, np.ndarray], root: Path, frames: Frames) -> FrameSource:
    if info["features"][camera.key]["dtype"] == "image":
        return ParquetImages(camera, frames)
    return Videos(video_spans(root, info, camera.key, listed), float(info["fps"]), camera, frames)
