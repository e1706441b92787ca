"""Pictures as JPEG on the wire: a tenth of the bytes, and not quite the pixels of training."""

import io

import numpy as np
from jaxtyping import UInt8

from vla_tune.serving.limits import MessageError

QUALITIES = range(50, 101)
_SEGMENTS = 64
"""Before the picture's data; a camera writes about ten."""
_SCAN = 0xDA
_OTHER_FRAMES = frozenset({0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
"""Start-of-frame markers of everything but baseline and extended sequential Huffman (ITU-T T.81, table B.1)."""
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""Segments of applications but JFIF's and Adobe's, which say what the colours are; and comments."""


def check_quality(quality: int | None) -> int | None:
    """The same.

    Raises:
        ValueError: it is no quality, or one that no policy should see.
    """
    if quality is not None and quality not in QUALITIES:
        raise ValueError(f"jpeg_quality={quality}: choose {QUALITIES[0]} to {QUALITIES[-1]}, or null for pictures as they are.")
    return quality


def to_jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """The picture as a JPEG file, with colours at full resolution."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def from_jpeg(data: bytes, *, largest: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a JPEG file of one scan, as cameras and `to_jpeg` write it.

    Progressive files may hold any number of scans, each of which takes as long as a whole picture: they are refused.

    Args:
        data: The file.
        largest: Pixels that it may have.

    Raises:
        MessageError: it is something else, damaged, not RGB, or larger.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(_bare(data)), formats=["JPEG"]) as picture:  # reads the header only
            if picture.mode != "RGB" or picture.width * picture.height > largest:
                found = f"{picture.width} x {picture.height} {picture.mode}"
                raise MessageError(f"a JPEG of {found}: RGB, at most {largest:,} pixels.")
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"{len(data):,} bytes are no JPEG that can be read: {error}"[:200]) from None


def _bare(data: bytes) -> bytes:
    """The same file without metadata, which nobody needs and whose readers write a line to the log for each mistake in it.

    Raises:
        MessageError: it has several scans, is progressive, or has many segments before its picture.
    """
    place, kept = 2, [data[:2]]  # behind the first marker
    for _ in range(_SEGMENTS):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if data[place] != 0xFF or length < 2:
            raise MessageError(f"{len(data):,} bytes are no JPEG that can be read: a segment is broken.")
        if marker in _OTHER_FRAMES:
            raise MessageError("a JPEG that is not baseline: write it without progressive=True.")
        if marker not in _METADATA:
            kept.append(data[place : place + 2 + length])
        place += 2 + length
        if marker == _SCAN:
            if data.find(bytes([0xFF, _SCAN]), place) >= 0:
                raise MessageError("a JPEG of several scans: write it as baseline, with its colours interleaved.")
            return b"".join([*kept, data[place:]])
    raise MessageError(f"a JPEG with more than {_SEGMENTS} segments before its picture: leave the metadata away.")
