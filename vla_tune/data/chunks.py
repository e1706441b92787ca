"""Where a frame's action chunk comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32

from vla_tune.data.frames import Frames
from vla_tune.schema import Group

_REST: Mapping[str, tuple[float, ...]] = {"quaternion_xyzw": (0.0, 0.0, 0.0, 1.0), "rotation_6d": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
"""Rotations by nothing that are not written as zeros: quaternion x y z w, and the first two columns of the unit matrix."""


@dataclass(frozen=True, eq=False)
class Rest:
    """What an action is while nothing moves: no motion in the dimensions that are motions (`delta`)."""

    moves: Bool[np.ndarray, " A"]
    values: Float32[np.ndarray, " A"]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Rest":
        """Of a robot's action groups."""
        moves = [group.representation == "delta" for group in groups for _ in range(group.dimension)]
        values = [value for group in groups for value in _REST.get(group.rotation, (0.0,) * group.dimension)]
        return cls(np.array(moves, bool), np.array(values, np.float32))

    def after(self, actions: Float32[np.ndarray, "T A"], counted: Bool[np.ndarray, "T A"]) -> Float32[np.ndarray, "T A"]:
        """A chunk whose padding beyond the episode's end stays where it is: a motion that is repeated would go on."""
        return actions if counted.all() else np.where(counted | ~self.moves, actions, self.values)


@runtime_checkable
class Chunks(Protocol):
    """A source of action chunks of `horizon` steps."""

    @property
    def horizon(self) -> int:
        """T."""
        ...

    def columns(self, action_dimension: int) -> dict[str, tuple[int, ...]]:
        """Further columns to read, with the shape of a row."""
        ...

    def chunk(self, frames: Frames, row: int) -> tuple[Float32[np.ndarray, "T A"], Bool[np.ndarray, "T A"]]:
        """The actions from `row` on, and which of them count."""
        ...

    def values(self, frames: Frames, rows: np.ndarray) -> Float32[np.ndarray, "M A"]:
        """Every action of the given rows once: what statistics describe."""
        ...


@dataclass(frozen=True)
class ChunksByTimestamp:
    """The recorded actions at t, t + 1/fps, ..., t + (T - 1)/fps of the same episode.

    Beyond the episode's end the last action is repeated, as LeRobot does, and masked (`Demonstrations` puts no motion there
    where actions are motions).
    """

    horizon: int

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon={self.horizon}: a chunk has at least 1 action.")

    def columns(self, action_dimension: int) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def chunk(self, frames: Frames, row: int) -> tuple[Float32[np.ndarray, "T A"], Bool[np.ndarray, "T A"]]:
        """The next T actions; frames are equally spaced (checked on opening), so time stamps and rows agree."""
        rows = row + np.arange(self.horizon)
        actions = frames.actions[np.minimum(rows, frames.end[row] - 1)]
        return actions, np.repeat((rows < frames.end[row])[:, None], actions.shape[1], axis=1)

    def values(self, frames: Frames, rows: np.ndarray) -> Float32[np.ndarray, "M A"]:
        """The action column."""
        return frames.actions[rows]


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
