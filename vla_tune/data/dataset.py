"""Demonstrations of a robot, read for training: a frame's pictures, the chunk of actions from there on, and what was said.

What is checked on opening is in `vla_tune.data.opening`.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64
from torch.utils.data import Dataset

from vla_tune.data.cache import CachedFrames
from vla_tune.data.frames import Frames
from vla_tune.data.opening import opened
from vla_tune.schema import Embodiment, Group


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
        if row + self.horizon <= frames.end[row]:
            actions = frames.actions[row : row + self.horizon]
            return actions, np.ones(actions.shape, bool)
        rows = row + np.arange(self.horizon)
        actions = frames.actions[np.minimum(rows, frames.end[row] - 1)]
        return actions, np.repeat((rows < frames.end[row])[:, None], actions.shape[1], axis=1)

    def values(self, frames: Frames, rows: np.ndarray) -> Float32[np.ndarray, "M A"]:
        """The action column."""
        return frames.actions[rows]


class Demonstrations(Dataset[dict[str, Any]]):
    """A map-style dataset of raw samples, in robot units, from a local folder; the network is never asked.

    A sample is {camera key: uint8 [H W 3] (read-only), state key: float32 [S], "actions": float32 [T A], "action_mask": bool
    [T A] (False beyond the episode's end), "instruction": str, "index": int64 [2] = (episode, frame)}. Numbers are in memory;
    pictures are decoded on first use and kept while there is room.

    Args:
        root: The dataset's folder.
        embodiment: What the dataset must hold.
        chunks: Where action chunks come from.
        episodes: Which to use, by number; None for all.
        exclude: Which of them to leave out.
        units: Group -> its unit in the dataset, where that is not the embodiment's (`schema.conversion`): values are converted.
        labelled_hz: What the dataset calls its rate, where that is wrong and its steps are the embodiment's.
        cache_bytes: Room for decoded pictures, shared by the cameras; None while a quarter of the memory that a process may use is
            free, whoever takes it: other data sets, workers, environments. What has no room is read and decoded each time.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: it is no v3.0 dataset, its keys, shapes or rate are not the embodiment's, a selection is empty or out of range,
            or a number is NaN or infinite; all in one line with the remedy.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        embodiment: Embodiment,
        chunks: Chunks,
        episodes: Sequence[int] | None = None,
        exclude: Sequence[int] = (),
        units: Mapping[str, str] | None = None,
        labelled_hz: float | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.root, self.chunks, self._rest = Path(root), chunks, Rest.of(embodiment.action)
        there = opened(
            self.root,
            embodiment,
            columns=chunks.columns(embodiment.action_dimension),
            episodes=episodes,
            exclude=exclude,
            units=units or {},
            labelled_hz=labelled_hz,
        )
        self.embodiment, self.episodes, self.frames = there.embodiment, there.episodes, there.frames
        self.rows = np.arange(len(self.frames))
        capacity = None if cache_bytes is None else cache_bytes // len(embodiment.cameras)
        sizes = {camera.key: 3 * camera.height * camera.width for camera in embodiment.cameras}
        self.images = {
            key: CachedFrames(source, self.frames, size=sizes[key], capacity=capacity) for key, source in there.pictures.items()
        }

    def __len__(self) -> int:
        """Frames in the episodes in use."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One raw sample.

        Raises:
            ValueError: its picture cannot be decoded, or has another size than the embodiment says.
        """
        row, frames, body = int(self.rows[index]), self.frames, self.embodiment
        actions, mask = self.chunk(row)
        images = {key: source[row] for key, source in self.images.items()}
        return images | {
            body.state_key: frames.state[row],
            "actions": actions,
            "action_mask": mask,
            "instruction": frames.tasks[frames.task[row]],
            "index": np.array([frames.episode[row], frames.frame[row]]),
        }

    def chunk(self, row: int) -> tuple[Float32[np.ndarray, "T A"], Bool[np.ndarray, "T A"]]:
        """The actions from a row of `frames` on, and which of them count; beyond the episode's end nothing moves."""
        actions, mask = self.chunks.chunk(self.frames, row)
        return self._rest.after(actions, mask), mask

    @property
    def first_frames(self) -> Int64[np.ndarray, " E"]:
        """Positions of every episode's frame 0, where no motion so far gives the answer away."""
        return np.flatnonzero(self.frames.frame[self.rows] == 0)

    def select(self, episodes: Sequence[int]) -> "Demonstrations":
        """Some of the episodes in use; the pictures in memory are shared.

        Raises:
            ValueError: none is given, or one that is not in use.
        """
        if not len(episodes) or not set(episodes) <= set(self.episodes):
            raise ValueError(f"episodes {list(episodes)} cannot be selected: name at least one of {list(self.episodes)}.")
        part = copy(self)
        part.episodes = tuple(sorted(set(episodes)))
        part.rows = self.rows[np.isin(self.frames.episode[self.rows], part.episodes)]
        return part

    def split(self, fraction: float, *, seed: int) -> tuple["Demonstrations", "Demonstrations"]:
        """Whole episodes for training, and a `fraction` of them held out for validation.

        The choice follows from the seed. At least one episode is on each side.

        Raises:
            ValueError: the fraction is not between 0 and 1, or there is only one episode.
        """
        if not 0 < fraction < 1 or len(self.episodes) < 2:
            raise ValueError(
                f"cannot hold out {fraction} of {len(self.episodes)} episodes: the fraction lies between 0 and 1 (exclusive), "
                "and at least 2 episodes are needed."
            )
        count = min(max(1, round(fraction * len(self.episodes))), len(self.episodes) - 1)
        order = np.random.default_rng(seed).permutation(self.episodes)
        return self.select(order[count:].tolist()), self.select(order[:count].tolist())

    def check_images(self) -> None:
        """Decode every picture once.

        Raises:
            ValueError: one cannot be decoded, or has another size than the embodiment says; it is named.
        """
        for images in self.images.values():
            for row in self.rows.tolist():
                images[row]


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
