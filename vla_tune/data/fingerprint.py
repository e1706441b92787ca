"""What tells data from others, pictures and sentences included, without reading all of them."""

import hashlib
from collections.abc import Sequence

import numpy as np

from vla_tune.data.dataset import Demonstrations


def fingerprint(parts: Sequence[Demonstrations]) -> str:
    """SHA-256 over the episodes, the sentence of every frame, and the size and three pieces of whatever holds their pictures.

    A picture that was exchanged moves what comes behind it, or changes the size; one of as many bytes in the midst of a large film
    is not noticed. Demonstrations that were recorded again, to the same pictures, are the same. (States and actions are in the
    statistics' hash.)
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr((part.episodes, sorted(part.frames.tasks.items()))).encode())
        digest.update(part.frames.task[part.rows].astype(np.int64).tobytes())
        for key, images in part.images.items():
            digest.update(key.encode())
            for mark in images.source.marks(part.rows.tolist()):
                digest.update(mark)
    return digest.hexdigest()
