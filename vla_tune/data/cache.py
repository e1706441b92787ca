"""Pictures that were decoded, kept in memory."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from vla_tune.data.computer import spare_memory
from vla_tune.data.frames import Frames
from vla_tune.data.images import FrameSource

_PAUSE = 100
"""Pictures after which memory that was used up is asked for again: others may have given theirs back."""


class CachedFrames:
    """Decodes each picture once while there is room for it, and on demand beyond.

    An episode is decoded as a whole, since its pictures lie together on disk. Nothing is evicted: with random access, a full
    cache serves its share of the reads whichever pictures it holds. Room decides about time alone.

    Args:
        source: Decodes.
        frames: Whose pictures.
        size: Of one picture, in bytes.
        capacity: Bytes; None is `spare_memory()`, which is asked again from time to time where it was used up.
    """

    def __init__(self, source: FrameSource, frames: Frames, *, size: int, capacity: int | None) -> None:
        self.source, self.frames, self.size, self.capacity = source, frames, size, capacity
        self._kept: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
        self._pause = 0

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a frame; not to be written to."""
        if row not in self._kept:
            self._keep_episode(row)
        return self._kept[row] if row in self._kept else self.source.decode([row])[0]

    def _keep_episode(self, row: int) -> None:
        """The pictures of a frame's episode, as many as there is room for."""
        episode = range(row - int(self.frames.frame[row]), int(self.frames.end[row]))
        rows = [other for other in episode if other not in self._kept][: self._room()]
        for other, picture in zip(rows, self.source.decode(rows) if rows else (), strict=True):
            picture.flags.writeable = False
            self._kept[other] = picture

    def _room(self) -> int:
        """For how many more pictures."""
        if self._pause:
            self._pause -= 1
            return 0
        free = spare_memory() if self.capacity is None else self.capacity - len(self._kept) * self.size
        room = max(0, free // self.size)
        self._pause = 0 if room else _PAUSE
        return room

    def __getstate__(self) -> dict[str, Any]:
        """Without the pictures: a worker process fills its own cache."""
        return self.__dict__ | {"_kept": {}, "_pause": 0}
