"""Demonstrations of the built-in expert as a source of data: recorded when they are first asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gymnasium

from vla_tune.data.chunks import Chunks
from vla_tune.data.dataset import Demonstrations
from vla_tune.record.demonstrations import Noise, record_demonstrations
from vla_tune.record.tabletop import tabletop_expert
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
