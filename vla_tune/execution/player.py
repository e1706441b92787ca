"""A timeline in an evaluation, which waits for its policy."""

import numpy as np
from jaxtyping import Float

from vla_tune.execution.timeline import Chunk, Timeline


class Player:
    """Plays one episode whose time stands still while the policy acts: a timeline at latency 0."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline, self._new = timeline, False

    @property
    def needs_chunk(self) -> bool:
        """Whether `add` must come before the next `next`."""
        return not self._new and self._timeline.wants(latency=0)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk predicted from the present observation; its first action is for this tick."""
        assert self.needs_chunk, "a chunk was added that nobody asked for"
        self._timeline.add(chunk, elapsed=0)
        self._new = True

    def next(self) -> Float[np.ndarray, " A"]:
        """The action of this tick, in robot units."""
        assert not self.needs_chunk, "no chunk for this tick"
        action, self._new = self._timeline.next(), False
        assert action is not None, "the chunk is empty"
        return action
