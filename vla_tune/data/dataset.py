"""Demonstrations of a robot: a LeRobotDataset v3.0, read for training."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Dataset

from vla_tune.data.chunks import Chunks
from vla_tune.data.frames import Frames, check_folder, check_times, feature, read_frames
from vla_tune.data.images import CachedFrames, FrameSource, ParquetImages, Videos
from vla_tune.schema import Camera, Embodiment, same_rate

CACHE_BYTES = 2 * 1024**3


class Demonstrations(Dataset[dict[str, Any]]):
    """A map-style dataset of raw samples, in robot units, from a local folder; the network is never asked.

    A sample is {camera key: uint8 [H W 3] (read-only), state key: float32 [S], "actions": float32 [T A], "action_mask": bool
    [T A] (False beyond the episode's end), "instruction": str, "index": int64 [2] = (episode, frame)}. Numbers are in memory;
    pictures are decoded on first use and kept while there is room.

    Args:
        root: The dataset's folder.
        embodiment: What the dataset must hold.
        chunks: Where action chunks come from.
        episodes: Which to use; None for all.
        cache_bytes: Room for decoded pictures, shared by the cameras.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: it is no v3.0 dataset, its keys, shapes or rate are not the embodiment's, a selection is empty or out of range,
            or a number is NaN or infinite; all in one line with the remedy.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        embodiment: Embodiment,
        chunks: Chunks,
        episodes: Sequence[int] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.root, self.embodiment, self.chunks = Path(root), embodiment, chunks
        info = check_folder(self.root)
        extra = chunks.columns(embodiment.action_dimension)
        _check_features(info, embodiment, extra, self.root)
        self.episodes = _selected(episodes, info["total_episodes"], self.root)
        metadata = _metadata(self.root)
        self.frames = read_frames(
            self.root,
            state_key=embodiment.state_key,
            action_key=embodiment.action_key,
            extra=extra,
            tasks=metadata.tasks.sort_values("task_index").index.tolist(),
            episodes=self.episodes,
        )
        check_times(self.frames, float(info["fps"]))
        self.rows = np.arange(len(self.frames))
        capacity = cache_bytes // len(embodiment.cameras)
        sources = {camera.key: _source(camera, info, metadata, self.root, self.frames) for camera in embodiment.cameras}
        self.images = {key: CachedFrames(source, self.frames, capacity=capacity) for key, source in sources.items()}

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        embodiment: Embodiment,
        chunks: Chunks,
        episodes: Sequence[int] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> "Demonstrations":
        """The dataset at https://huggingface.co/datasets/<repo_id>, downloaded once by LeRobot; arguments as above."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        wanted = None if episodes is None else list(episodes)
        root = LeRobotDataset(repo_id, episodes=wanted, revision=revision).root
        return cls(root, embodiment=embodiment, chunks=chunks, episodes=episodes, cache_bytes=cache_bytes)

    def __len__(self) -> int:
        """Frames in the episodes in use."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One raw sample.

        Raises:
            ValueError: its picture cannot be decoded, or has another size than the embodiment says.
        """
        row, frames, body = int(self.rows[index]), self.frames, self.embodiment
        actions, mask = self.chunks.chunk(frames, row)
        images = {key: source[row] for key, source in self.images.items()}
        return images | {
            body.state_key: frames.state[row],
            "actions": actions,
            "action_mask": mask,
            "instruction": frames.tasks[frames.task[row]],
            "index": np.array([frames.episode[row], frames.frame[row]]),
        }

    @property
    def first_frames(self) -> Int64[np.ndarray, " E"]:
        """Positions of every episode's frame 0, where no motion so far gives the answer away."""
        return np.flatnonzero(self.frames.frame[self.rows] == 0)

    def select(self, episodes: Sequence[int]) -> "Demonstrations":
        """Some of the episodes in use; the pictures in memory are shared.

        Raises:
            ValueError: none is given, or one that is not in use.
        """
        if not len(episodes) or not set(episodes) <= set(self.episodes):
            raise ValueError(f"episodes {list(episodes)} cannot be selected: name at least one of {list(self.episodes)}.")
        part = copy(self)
        part.episodes = tuple(sorted(set(episodes)))
        part.rows = self.rows[np.isin(self.frames.episode[self.rows], part.episodes)]
        return part

    def split(self, fraction: float, *, seed: int) -> tuple["Demonstrations", "Demonstrations"]:
        """Whole episodes for training, and a `fraction` of them held out for validation.

        The choice follows from the seed. At least one episode is on each side.

        Raises:
            ValueError: the fraction is not between 0 and 1, or there is only one episode.
        """
        if not 0 < fraction < 1 or len(self.episodes) < 2:
            raise ValueError(
                f"cannot hold out {fraction} of {len(self.episodes)} episodes: the fraction lies between 0 and 1 (exclusive), "
                "and at least 2 episodes are needed."
            )
        count = min(max(1, round(fraction * len(self.episodes))), len(self.episodes) - 1)
        order = np.random.default_rng(seed).permutation(self.episodes)
        return self.select(order[count:].tolist()), self.select(order[:count].tolist())

    def check_images(self) -> None:
        """Decode every picture once.

        Raises:
            ValueError: one cannot be decoded, or has another size than the embodiment says; it is named.
        """
        for camera in self.embodiment.cameras:
            for row in self.rows.tolist():
                picture = self.images[camera.key][row]
                if picture.shape != (camera.height, camera.width, 3):
                    raise ValueError(
                        f"{camera.key!r} of episode {self.frames.episode[row]}, frame {self.frames.frame[row]} is {picture.shape}, "
                        f"the embodiment says {(camera.height, camera.width, 3)}."
                    )


def _metadata(root: Path) -> Any:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    return LeRobotDatasetMetadata(f"local/{root.name}", root=root)  # every file it wants is there: see `check_folder`


def _selected(episodes: Sequence[int] | None, total: int, root: Path) -> tuple[int, ...]:
    if episodes is None:
        episodes = range(total)
    if not len(episodes):
        raise ValueError(f"no episode of {root} is selected: name some of 0..{total - 1}, or leave the selection out for all.")
    if outside := [episode for episode in episodes if not 0 <= episode < total]:
        raise ValueError(f"{root} has no episodes {outside}: it has 0..{total - 1}.")
    return tuple(sorted({int(episode) for episode in episodes}))


def _check_features(info: dict[str, Any], body: Embodiment, extra: dict[str, tuple[int, ...]], root: Path) -> None:
    expected = {body.state_key: (body.state_dimension,), body.action_key: (body.action_dimension,), **extra}
    for key, shape in expected.items():
        found = tuple(feature(info, key, root)["shape"])
        if found != shape:
            raise ValueError(
                f"{root}: {key!r} has shape {found}, {body.name!r} needs {shape}. Correct the embodiment or the dataset."
            )
    for camera in body.cameras:
        found, size = tuple(feature(info, camera.key, root)["shape"]), (camera.height, camera.width)
        if found not in ((*size, 3), (3, *size)):
            raise ValueError(f"{root}: {camera.key!r} has shape {found}, {body.name!r} says {size} pixels. Correct the embodiment.")
    if not same_rate(float(info["fps"]), body.control_hz):
        rates = f"{info['fps']} frames per second, {body.name!r} acts at {body.control_hz:g} Hz"
        raise ValueError(f"{root} has {rates}: resample the dataset or correct the embodiment.")


def _source(camera: Camera, info: dict[str, Any], metadata: Any, root: Path, frames: Frames) -> FrameSource:
    if info["features"][camera.key]["dtype"] == "image":
        return ParquetImages(root, camera.key, frames)
    column = metadata.episodes[f"videos/{camera.key}/from_timestamp"]
    files = [root / metadata.get_video_file_path(episode, camera.key) for episode in range(info["total_episodes"])]
    return Videos(files, list(column), camera.key, frames)
