"""Frames -> a LeRobotDataset v3.0."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av.logging

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
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    encoder = RGBEncoderConfig(vcodec=storage.codec) if storage.kind == "video" else None
    with _quiet():
        dataset = LeRobotDataset.create(
            f"local/{root.name}",
            fps=whole_rate(embodiment),
            features=_features(embodiment, storage, extra or {}),
            root=root,
            use_videos=storage.kind == "video",
            image_writer_threads=1,
            video_backend=video_backend(),
            rgb_encoder=encoder,
        )
        try:
            for frames in episodes:
                tasks: set[str] = set()
                for frame in frames:
                    if frame["task"] not in tasks:
                        dataset.meta.save_episode_tasks([frame["task"]])  # LeRobot's own order is random
                        tasks.add(frame["task"])
                    dataset.add_frame(dict(frame))
                dataset.save_episode(parallel_encoding=False)
        finally:
            dataset.finalize()
    pictures = root / "images"  # where LeRobot kept them until they were encoded
    for folder in sorted(pictures.rglob("*"), reverse=True):
        folder.rmdir()
    if pictures.exists():
        pictures.rmdir()
    Demonstrations(root, embodiment=embodiment, chunks=ChunksByTimestamp(1), cache_bytes=0).check_images()


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
