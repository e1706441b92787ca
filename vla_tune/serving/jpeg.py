"""Pictures as JPEG on the wire: a tenth of the bytes, and not quite the pixels of training."""

import io

import numpy as np
from jaxtyping import UInt8

from vla_tune.serving.codec import MAX_BYTES, MessageError

QUALITIES = range(50, 101)


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


def from_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a JPEG file.

    Raises:
        MessageError: it is something else, damaged, not RGB, or larger than a message may be.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:  # reads the header only
            if picture.mode != "RGB" or 3 * picture.width * picture.height > MAX_BYTES:
                raise MessageError(
                    f"a JPEG of {picture.width} x {picture.height} {picture.mode}: RGB, at most {MAX_BYTES:,} bytes of pixels."
                )
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"{len(data):,} bytes are no JPEG that can be read: {error}"[:200]) from None
