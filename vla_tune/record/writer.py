"""Frames -> a LeRobotDataset v3.0."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import av.logging
import numpy as np

from vla_tune.data.dataset import ChunksByTimestamp, Demonstrations
from vla_tune.data.videos import video_backend
from vla_tune.schema import Embodiment, dimension_names

Frame = dict[str, Any]


@dataclass(frozen=True)
class Storage:
    """How pictures are stored.

    Attributes:
        kind: "image" keeps every pixel (PNG); "video" is smaller and lossy.
        codec: Of a video, as LeRobot names it.
    """

    kind: Literal["image", "video"] = "image"
    codec: str = "h264"


def write_episodes(
    root: Path,
    episodes: Iterable[Iterable[Frame]],
    *,
    embodiment: Embodiment,
    storage: Storage,
    extra: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write a dataset into `root`, which must not exist, and check that every picture of it can be read back.

    Args:
        root: The dataset's folder.
        episodes: Each some {camera key: uint8 [H W 3], state key, action key: float32, "task": str, further keys}.
        embodiment: Names, sizes and rate.
        storage: Of pictures.
        extra: Shapes of further float32 columns.
    """
    with _created(root, embodiment, storage, extra or {}) as dataset:
        for frames in episodes:
            for frame in frames:
                _know(dataset, frame["task"])
                dataset.add_frame(dict(frame))
            dataset.save_episode(parallel_encoding=False)
    _opened(root, embodiment).check_images()


@runtime_checkable
class Encoded(Protocol):
    """An episode whose pictures are PNG files already."""

    @property
    def pictures(self) -> Mapping[str, Sequence[bytes]]:
        """Of every frame, by camera key."""
        ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """State and action, float32 [N S] and [N A], by key."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """What was said in every frame."""
        ...


def write_encoded(root: Path, episodes: Iterable[Encoded], *, embodiment: Embodiment, storage: Storage) -> None:
    """Write a dataset of episodes whose pictures are encoded, into `root`, which must not exist; they are stored as they are.

    Args:
        root: The dataset's folder.
        episodes: The episodes.
        embodiment: Names, sizes and rate.
        storage: Of pictures; PNG files become frames of a video, where that is asked for.
    """
    with _created(root, embodiment, storage, {}) as dataset:
        for episode in episodes:
            for task in episode.tasks:
                _know(dataset, task)
            dataset.save_episode(episode_data=_buffer(dataset, episode), parallel_encoding=False)
            shutil.rmtree(root / "images", ignore_errors=True)
    written = _opened(root, embodiment)
    for pictures in written.images.values():
        pictures.source.check(range(len(written)))


def _buffer(dataset: Any, episode: Encoded) -> dict[str, Any]:
    """What LeRobot keeps of an episode until it is saved; pictures are files where it would have written them."""
    from lerobot.datasets.utils import DEFAULT_IMAGE_PATH

    count, number = len(episode.tasks), dataset.meta.total_episodes
    buffer = {key: [] for key in dataset.meta.features} | {"size": count, "task": list(episode.tasks), "episode_index": number}
    buffer |= {"frame_index": list(range(count)), "timestamp": [frame / dataset.meta.fps for frame in range(count)]}
    for key, pictures in episode.pictures.items():
        for frame, picture in enumerate(pictures):
            path = dataset.root / DEFAULT_IMAGE_PATH.format(image_key=key, episode_index=number, frame_index=frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
            buffer[key].append(str(path))
    return buffer | {key: list(values) for key, values in episode.columns.items()}


def _know(dataset: Any, task: str) -> None:
    """Sentences are numbered as they come; LeRobot's own order is random."""
    if dataset.meta.tasks is None or task not in dataset.meta.tasks.index:
        dataset.meta.save_episode_tasks([task])


@contextmanager
def _created(root: Path, body: Embodiment, storage: Storage, extra: Mapping[str, tuple[int, ...]]) -> Iterator[Any]:
    """A new dataset of LeRobot, whole at the end."""
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    with _quiet():
        dataset = LeRobotDataset.create(
            f"local/{root.name}",
            fps=whole_rate(body),
            features=_features(body, storage, extra),
            root=root,
            use_videos=storage.kind == "video",
            image_writer_threads=1,
            video_backend=video_backend(),
            rgb_encoder=RGBEncoderConfig(vcodec=storage.codec) if storage.kind == "video" else None,
        )
        try:
            yield dataset
        finally:
            dataset.finalize()
    pictures = root / "images"  # where LeRobot kept them until they were encoded
    for folder in sorted(pictures.rglob("*"), reverse=True):
        folder.rmdir()
    if pictures.exists():
        pictures.rmdir()


def _opened(root: Path, body: Embodiment) -> Demonstrations:
    return Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(1), cache_bytes=0)


def _features(body: Embodiment, storage: Storage, extra: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    images = {
        camera.key: {"dtype": storage.kind, "shape": (camera.height, camera.width, 3), "names": ["height", "width", "channels"]}
        for camera in body.cameras
    }
    state = {body.state_key: (body.state_dimension,)} if body.state else {}
    columns = {**state, body.action_key: (body.action_dimension,), **extra}
    names = {body.state_key: dimension_names(body.state), body.action_key: dimension_names(body.action)}
    return images | {key: {"dtype": "float32", "shape": shape, "names": names.get(key)} for key, shape in columns.items()}


def whole_rate(embodiment: Embodiment) -> int:
    """Frames per second as LeRobot (0.6.1) writes them.

    Raises:
        ValueError: the robot's rate is a fraction.
    """
    rate = round(embodiment.control_hz)
    if rate != embodiment.control_hz:
        raise ValueError(
            f"{embodiment.name} acts at {embodiment.control_hz:g} Hz, LeRobot writes whole rates only: record at {max(rate, 1)} Hz."
        )
    return rate


@contextmanager
def _quiet() -> Iterator[None]:
    """Without one progress bar, and a page of encoder statistics, for each episode."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    disable_progress_bar()
    av.logging.set_libav_level(av.logging.ERROR)
    try:
        yield
    finally:
        av.logging.set_libav_level(av.logging.INFO)  # FFmpeg's default
        if shown:
            enable_progress_bar()
