"""Frames of a camera, decoded from the dataset's parquet or video files."""

import io
import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from vla_tune.data.frames import TOLERANCE_S, Frames

_log = logging.getLogger(__name__)


@runtime_checkable
class FrameSource(Protocol):
    """Decodes pictures of one camera."""

    def decode(self, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """The pictures of some frames of one episode, by position in `Frames`."""
        ...


class ParquetImages:
    """Pictures stored as PNG or JPEG bytes in the data files; the row groups read last stay in memory."""

    def __init__(self, root: Path, key: str, frames: Frames, *, groups_kept: int = 16) -> None:
        self.key, self.frames, self.groups_kept = key, frames, groups_kept
        self._groups = _row_groups(root)
        self._starts = np.array([first for first, *_ in self._groups])
        self._read: OrderedDict[int, pa.Array] = OrderedDict()

    def decode(self, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Decoded pictures.

        Raises:
            ValueError: a picture cannot be decoded; the file, the episode and the frame are named.
        """
        return [self._decode(row) for row in rows]

    def _decode(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        index = int(self.frames.index[row])
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        first, path, _ = self._groups[number]
        encoded = self._group(number)[index - first]["bytes"].as_py()
        try:
            return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except (OSError, SyntaxError, TypeError) as error:
            raise ValueError(_undecodable(self.key, path, self.frames, row, error)) from None

    def _group(self, number: int) -> pa.Array:
        if number not in self._read:
            _, path, group = self._groups[number]
            try:
                column = pq.ParquetFile(path).read_row_group(group, columns=[self.key])[self.key].combine_chunks()
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{path} cannot be read ({error}): it is damaged, copy or record it again.") from None
            self._read[number] = column.storage if isinstance(column, pa.ExtensionArray) else column
            if len(self._read) > self.groups_kept:
                self._read.popitem(last=False)
        self._read.move_to_end(number)
        return self._read[number]


class Videos:
    """Pictures stored as video; an episode is decoded as a whole, because each picture needs those before it."""

    def __init__(self, files: Sequence[Path], starts_s: Sequence[float], key: str, frames: Frames) -> None:
        """One file and start time for each episode of the dataset, by episode index."""
        self.files, self.starts_s, self.key, self.frames = files, starts_s, key, frames
        for episode in np.unique(frames.episode):
            if not files[episode].is_file():
                raise FileNotFoundError(f"video {files[episode]} of episode {episode} is missing: copy or download it again.")

    def decode(self, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Decoded pictures at the rows' time stamps.

        Raises:
            ValueError: a picture cannot be decoded; the file, the episode and the frame are named.
        """
        from lerobot.datasets.video_utils import decode_video_frames

        episode = int(self.frames.episode[rows[0]])
        times = [self.starts_s[episode] + float(self.frames.timestamp[row]) for row in rows]
        path = self.files[episode]
        try:
            pictures = decode_video_frames(path, times, TOLERANCE_S, video_backend(), return_uint8=True)
        except Exception as error:  # each decoder has exceptions of its own
            if len(rows) > 1:  # find the one to name
                return [self.decode([row])[0] for row in rows]
            raise ValueError(_undecodable(self.key, path, self.frames, rows[0], error)) from None
        return list(pictures.permute(0, 2, 3, 1).contiguous().numpy())


class CachedFrames:
    """Decodes each picture once while the decoded ones fit in `capacity` bytes, and on demand beyond.

    An episode is decoded as a whole, since its pictures lie together on disk. Nothing is evicted: with random access, a full
    cache serves its share of the reads whichever pictures it holds.
    """

    def __init__(self, source: FrameSource, frames: Frames, *, capacity: int) -> None:
        self.source, self.frames, self.capacity = source, frames, capacity
        self._kept: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
        self._bytes = 0

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a frame; not to be written to."""
        if row in self._kept:
            return self._kept[row]
        if self._bytes >= self.capacity:
            return self.source.decode([row])[0]
        episode = range(row - int(self.frames.frame[row]), int(self.frames.end[row]))
        rows = [other for other in episode if other not in self._kept]
        for other, picture in zip(rows, self.source.decode(rows), strict=True):
            picture.flags.writeable = False
            if self._bytes + picture.nbytes <= self.capacity or other == row:
                self._kept[other] = picture
                self._bytes += picture.nbytes
        return self._kept[row]

    def __getstate__(self) -> dict[str, Any]:
        """Without the pictures: a worker process fills its own cache."""
        return self.__dict__ | {"_kept": {}, "_bytes": 0}


@cache
def video_backend() -> str:
    """The video decoder that works here: torchcodec where it finds its FFmpeg libraries, else PyAV, which brings them."""
    try:
        import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        _log.info("videos are decoded with PyAV: torchcodec is missing or finds no FFmpeg libraries on this machine.")
        return "pyav"
    return "torchcodec"


def _row_groups(root: Path) -> list[tuple[int, Path, int]]:
    """(first index, file, row group) of every row group, by first index."""
    groups = []
    for path in sorted(root.glob("data/*/*.parquet")):
        with pq.ParquetFile(path) as file:
            first = int(file.read_row_group(0, columns=["index"])["index"][0].as_py()) if file.num_row_groups else 0
            for group in range(file.num_row_groups):
                groups.append((first, path, group))
                first += file.metadata.row_group(group).num_rows
    return sorted(groups, key=lambda group: group[0])


def _undecodable(key: str, path: Path, frames: Frames, row: int, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{path}: {key!r} of episode {frames.episode[row]}, frame {frames.frame[row]} cannot be decoded ({reason}). "
        "The file is damaged or cut off: copy or record it again, or exclude the episode."
    )
