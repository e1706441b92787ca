"""What tells data from others, pictures and sentences included, without reading all of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla_tune.data.dataset import Demonstrations

_PIECE = 64 * 1024
"""Bytes that are read at the beginning, in the middle and at the end of a file."""


def fingerprint(parts: Sequence[Demonstrations]) -> str:
    """SHA-256 over the episodes, the sentence of every frame, and of every file with pictures its size and three pieces of it.

    A picture that was exchanged moves what comes behind it, or changes the size of its file; one of as many bytes in the midst of
    a large file is not noticed. (States and actions are in the statistics' hash.)
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr((part.episodes, sorted(part.frames.tasks.items()))).encode())
        digest.update(part.frames.task[part.rows].astype(np.int64).tobytes())
        for key, images in part.images.items():
            for path in images.source.files(part.rows.tolist()):
                digest.update(repr((key, path.name, path.stat().st_size)).encode())
                _add_pieces(digest, path)
    return digest.hexdigest()


def _add_pieces(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        for start in (0, size // 2, max(size - _PIECE, 0)):
            file.seek(start)
            digest.update(file.read(_PIECE))
