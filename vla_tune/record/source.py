"""Experts as sources of data: demonstrations and play, recorded when they are first asked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gymnasium

from vla_tune.data.chunks import RecordedChunks
from vla_tune.data.dataset import Chunks, Demonstrations
from vla_tune.record.counterfactual import Play, record_counterfactual
from vla_tune.record.demonstrations import record_demonstrations
from vla_tune.record.episode import Expert
from vla_tune.record.noise import Disturbing, Noise
from vla_tune.record.tabletop import TabletopWorld, tabletop_expert
from vla_tune.record.tasks import record_tasks
from vla_tune.record.writer import Storage
from vla_tune.schema import Embodiment

TABLETOP = "envs:vla_tune/Tabletop-v0"


@dataclass(frozen=True)
class Recorded:
    """Episodes of the scripted expert on the tabletop, the tasks in turn; an existing folder of this recipe is reused."""

    folder: str
    tasks: Sequence[str]
    episodes: int
    seed: int
    noise: Noise = field(default_factory=Noise)
    storage: Storage = field(default_factory=Storage)

    def record(self, embodiment: Embodiment) -> Path:
        """The dataset's folder, recorded now unless it exists.

        Raises:
            ValueError: the folder holds something else; it names what differs.
        """
        cameras = {camera.role: (camera.height, camera.width) for camera in embodiment.cameras}
        return record_demonstrations(
            Path(self.folder),
            make_env=partial(gymnasium.make, TABLETOP, task=self.tasks[0], cameras=cameras, disable_env_checker=True),
            expert=tabletop_expert,
            embodiment=embodiment,
            episodes=self.episodes,
            seed=self.seed,
            noise=self.noise,
            storage=self.storage,
            options=[{"task": task} for task in self.tasks],
        )

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        """The demonstrations."""
        return Demonstrations(self.record(embodiment), embodiment=embodiment, chunks=chunks)


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """Episodes of an expert in any environment, the tasks in turn; an existing folder of this recipe is reused."""

    folder: str
    make: Callable[..., gymnasium.Env]
    """Makes the environment of a `task`: `env.make` of a configuration. Episodes begin where it is reset, in no stored start."""
    expert: Expert
    """What it does now, given the environment: `env.expert` of a configuration."""
    tasks: Sequence[str]
    episodes: int
    """Of each task."""
    seed: int
    noise: Disturbing
    storage: Storage = field(default_factory=Storage)
    workers: int | None = None
    """Processes that record, each with one environment at a time; None is one for each core. It changes nothing in the data."""

    def record(self, embodiment: Embodiment) -> Path:
        """The dataset's folder, recorded now unless it exists; what a killed recording had finished is not recorded again.

        Raises:
            ValueError: the folder holds something else, it names what differs; or the expert fails too often.
        """
        return record_tasks(
            Path(self.folder),
            make=self.make,
            expert=self.expert,
            embodiment=embodiment,
            tasks=[str(task) for task in self.tasks],
            episodes=self.episodes,
            seed=self.seed,
            noise=self.noise,
            storage=self.storage,
            workers=len(os.sched_getaffinity(0)) if self.workers is None else self.workers,
        )

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        """The demonstrations."""
        return Demonstrations(self.record(embodiment), embodiment=embodiment, chunks=chunks)


@dataclass(frozen=True)
class Played:
    """Counterfactual play on the tabletop: every frame has an instruction and the chunk an expert would answer it with.

    Raises:
        ValueError: there is no task, or no frame to record.
    """

    folder: str
    tasks: Sequence[str]
    frames: int
    """At least; the last stretch of play is finished."""
    horizon: int
    """T, the actions in a chunk."""
    seed: int
    play: Play = field(default_factory=Play)
    storage: Storage = field(default_factory=Storage)

    def __post_init__(self) -> None:
        for name, value in {"tasks": len(self.tasks), "frames": self.frames, "horizon": self.horizon}.items():
            if value < 1:
                raise ValueError(f"{name}={getattr(self, name)}: play needs at least 1.")

    def record(self, embodiment: Embodiment) -> Path:
        """The dataset's folder, recorded now unless it exists."""
        cameras = {camera.role: (camera.height, camera.width) for camera in embodiment.cameras}
        return record_counterfactual(
            Path(self.folder),
            world=TabletopWorld(tuple(self.tasks), cameras),
            embodiment=embodiment,
            horizon=self.horizon,
            frames=self.frames,
            seed=self.seed,
            storage=self.storage,
            play=self.play,
        )

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        """The frames, with their own chunks; those of a run's other data come from `chunks`, of the same horizon.

        Raises:
            ValueError: the horizons differ.
        """
        if chunks.horizon != self.horizon:
            raise ValueError(f"horizon={self.horizon} of the recorded chunks differs from the run's {chunks.horizon}.")
        return Demonstrations(self.record(embodiment), embodiment=embodiment, chunks=RecordedChunks(self.horizon))
