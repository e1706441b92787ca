"""Where a frame's action chunk comes from: configurations, and with them stored runs, name these sources by their place here."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from vla_tune.data.dataset import Chunks, ChunksByTimestamp
from vla_tune.data.frames import Frames

__all__ = ["Chunks", "ChunksByTimestamp", "RecordedChunks"]


@dataclass(frozen=True)
class RecordedChunks:
    """Chunks that were recorded with each frame, such as those of counterfactual play."""

    horizon: int
    key: str = "action_chunk"

    def columns(self, action_dimension: int) -> dict[str, tuple[int, ...]]:
        """The chunk's column."""
        return {self.key: (self.horizon, action_dimension)}

    def chunk(self, frames: Frames, row: int) -> tuple[Float32[np.ndarray, "T A"], Bool[np.ndarray, "T A"]]:
        """The recorded chunk; all of it counts."""
        actions = frames.extra[self.key][row]
        return actions, np.ones(actions.shape, dtype=bool)

    def values(self, frames: Frames, rows: np.ndarray) -> Float32[np.ndarray, "M A"]:
        """All steps of all chunks."""
        chunks = frames.extra[self.key][rows]
        return chunks.reshape(-1, chunks.shape[-1])
