"""Pictures of a camera, decoded from the dataset's data files."""

import io
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsInt, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from PIL import Image

from vla_tune.data.folder import leave_out, parquet
from vla_tune.data.frames import Frames
from vla_tune.data.pieces import pieces
from vla_tune.schema import Camera

_log = logging.getLogger(__name__)
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""PIL reads others too, one of them by running a program on it (EPS)."""
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@runtime_checkable
class FrameSource(Protocol):
    """Decodes pictures of one camera."""

    def decode(self, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """The pictures of some frames of one episode, by position in `Frames`."""
        ...

    def check(self, rows: Sequence[int]) -> None:
        """Look at what the pictures of some frames say of themselves, and decode none.

        Raises:
            ValueError: one is no picture of the camera's size, or of numbers that are no colours; it is named.
        """
        ...

    def marks(self, rows: Sequence[int]) -> Iterator[bytes]:
        """What tells the files with the pictures of some frames from others, without reading all of them (`data.fingerprint`)."""
        ...


class ParquetImages:
    """Pictures stored as PNG or JPEG bytes in the data files, found by the file and the row that the frame was read from.

    The row groups read last stay in memory. Of 16 bit grey pictures the whole range is kept: 0..65535 becomes 0..255.
    """

    def __init__(self, camera: Camera, frames: Frames, *, groups_kept: int = 16) -> None:
        self.camera, self.frames, self.groups_kept = camera, frames, groups_kept
        self._read: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()

    def decode(self, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Decoded pictures.

        Raises:
            ValueError: a picture cannot be decoded, or is not the camera's; the file, the episode and the frame are named.
        """
        return [self._decode(row) for row in rows]

    def check(self, rows: Sequence[int]) -> None:
        """Read the headers; 16 bit pictures are told of."""
        deep = [row for row in rows if self._opened(row).mode in _SIXTEEN_BIT]
        if deep:
            _log.warning(
                "%s, and %d more, is a 16 bit picture: 0 to 65535 is read as 0 to 255, each value v as round(v / 257). The robot's "
                "camera must be read by the same rule; distances (a depth map) are nearly black by it.",
                self._said(deep[0]),
                len(deep) - 1,
            )

    def marks(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Of the column of pictures in every row group of the frames' files; what a writer notes beside it does not count."""
        for file in np.unique(self.frames.file[list(rows)]).tolist():
            path = self.frames.files[file].path
            for start, size in _places(path, self.camera.key):
                yield from pieces(path, start, size)

    def _decode(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        picture = self._opened(row)
        try:
            return _eight_bits(picture)
        except Exception as error:  # each format has exceptions of its own
            raise ValueError(undecodable(self._said(row), error, self.frames.episode[row])) from None

    def _opened(self, row: int) -> Image.Image:
        """The picture, of which only the header was read."""
        file, place = int(self.frames.file[row]), int(self.frames.row[row])
        starts = self.frames.files[file].groups
        group = bisect_right(starts, place) - 1
        encoded = self._group(file, group)[place - starts[group]]["bytes"].as_py()
        if encoded is None:
            raise ValueError(f"{self._said(row)} is only named in the data file and lies elsewhere: write its bytes into the file.")
        try:
            picture = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        except Exception as error:
            raise ValueError(undecodable(self._said(row), error, self.frames.episode[row])) from None
        if (
            fault := size_fault(picture.width, picture.height, self.camera)
        ) is None and picture.mode not in _EIGHT_BIT + _SIXTEEN_BIT:
            fault = f"has {picture.mode!r} values, which are no colours of 8 or 16 bits: convert it"
        if fault is not None:
            raise ValueError(f"{self._said(row)} {fault}, or {leave_out(self.frames.episode[row])}.")
        return picture

    def _said(self, row: int) -> str:
        return f"{self.frames.files[self.frames.file[row]].path}: {named(self.camera, self.frames, row)}"

    def _group(self, file: int, group: int) -> pa.Array:
        if (file, group) not in self._read:
            with parquet(self.frames.files[file].path) as opened:
                column = opened.read_row_group(group, columns=[self.camera.key])[self.camera.key].combine_chunks()
            self._read[file, group] = column.storage if isinstance(column, pa.ExtensionArray) else column
            if len(self._read) > self.groups_kept:
                self._read.popitem(last=False)
        self._read.move_to_end((file, group))
        return self._read[file, group]

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: a worker process reads for itself."""
        return self.__dict__ | {"_read": OrderedDict()}


def _places(path: Path, column: str) -> Iterator[tuple[int, int]]:
    """Where the parts of a column begin in a data file, and how many bytes each has."""
    with parquet(path) as opened:
        known = opened.metadata
    groups = map(known.row_group, range(known.num_row_groups))
    parts = (group.column(number) for group in groups for number in range(group.num_columns))
    for part in parts:
        if part.path_in_schema.startswith(f"{column}."):
            start = part.data_page_offset if part.dictionary_page_offset is None else part.dictionary_page_offset
            yield start, part.total_compressed_size


def _eight_bits(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if picture.mode not in _SIXTEEN_BIT:
        return np.asarray(picture.convert("RGB"))
    grey = np.round(np.asarray(picture).astype(np.float32) / 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def size_fault(width: int, height: int, camera: Camera) -> str | None:
    """What is wrong with a picture's size, if anything is."""
    if (width, height) == (camera.width, camera.height):
        return None
    return f"is {height} x {width} pixels, the embodiment says {camera.height} x {camera.width}: correct one of them"


def named(camera: Camera, frames: Frames, row: int) -> str:
    """A picture by camera, episode and frame."""
    return f"{camera.key!r} of episode {frames.episode[row]}, frame {frames.frame[row]}"


def undecodable(said: str, error: Exception, episode: SupportsInt) -> str:
    """What to say of a picture that no decoder reads."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{said} cannot be decoded ({reason}). The file is damaged or cut off: copy or record it again, or {leave_out(episode)}."
