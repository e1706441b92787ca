"""Some of the bytes of a file that is too large to be read for its hash."""

from collections.abc import Iterator
from pathlib import Path

_PIECE = 64 * 1024
"""Bytes that are read at the beginning, in the middle and at the end."""


def pieces(path: Path, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """How many bytes a part of a file has, and three pieces of them.

    Args:
        path: The file.
        start: Where the part begins.
        size: Its bytes; None for all that is left.
    """
    size = path.stat().st_size - start if size is None else size
    yield str(size).encode()
    with path.open("rb") as file:
        for place in (0, max(size - _PIECE, 0) // 2, max(size - _PIECE, 0)):
            file.seek(start + place)
            yield file.read(min(_PIECE, size))
