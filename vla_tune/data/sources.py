"""The data of a run: demonstrations from one or several sources, some episodes held out, and their statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vla_tune.data.actions import NormalizedActions
from vla_tune.data.dataset import Chunks, Demonstrations
from vla_tune.data.fingerprint import fingerprint
from vla_tune.data.hub import downloaded
from vla_tune.data.mixture import Mixture
from vla_tune.data.names import check_one_robot
from vla_tune.data.statistics import dataset_statistics
from vla_tune.data.transforms import Samples
from vla_tune.schema import Embodiment, Statistics, embodiment_from_record


@runtime_checkable
class Source(Protocol):
    """Where demonstrations come from: a folder, the hub, or an expert that records them now."""

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        """The demonstrations of `embodiment`."""
        ...


@dataclass(frozen=True)
class Local:
    """A LeRobotDataset v3.0 in a folder; the network is never asked."""

    folder: str
    episodes: Sequence[int] | None = None
    """Which to use, by number; None for all."""
    exclude: Sequence[int] = ()
    """Which of them to leave out."""
    units: Mapping[str, str] | None = None
    """Group -> its unit in these data, where it is not the embodiment's: they are converted, e.g. `joints: rad`."""
    labelled_hz: float | None = None
    """What their `meta/info.json` calls the rate, where their steps are the robot's and the label is wrong."""

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        """The folder's demonstrations."""
        read = {"episodes": self.episodes, "exclude": self.exclude, "units": self.units, "labelled_hz": self.labelled_hz}
        return Demonstrations(Path(self.folder), embodiment=embodiment, chunks=chunks, **read)


@dataclass(frozen=True)
class Hub:
    """A dataset on the Hugging Face hub; `revision` pins a commit."""

    repo_id: str
    revision: str | None = None
    episodes: Sequence[int] | None = None
    """Which to use, by number; None for all. Only their videos are downloaded."""
    exclude: Sequence[int] = ()
    """Which of them to leave out."""
    units: Mapping[str, str] | None = None
    """Group -> its unit in these data, where it is not the embodiment's: they are converted, e.g. `joints: rad`."""
    labelled_hz: float | None = None
    """What their `meta/info.json` calls the rate, where their steps are the robot's and the label is wrong."""

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        """The repository's demonstrations, downloaded once by LeRobot.

        Raises:
            OSError: they cannot be downloaded; the message names the dataset and the ways out.
        """
        wanted = None if self.episodes is None else [episode for episode in self.episodes if episode not in self.exclude]
        root = downloaded(self.repo_id, revision=self.revision, episodes=wanted)
        return Local(str(root), self.episodes, self.exclude, self.units, self.labelled_hz).open(embodiment, chunks)


@dataclass(frozen=True, eq=False)
class Data:
    """What a run learns from, in robot units."""

    embodiment: Embodiment
    training: Samples
    validation: Demonstrations
    """Held-out episodes of the first source."""
    statistics: Statistics
    """Over the training episodes of all sources, and nothing else."""
    actions: NormalizedActions
    """Of the training episodes: what action tokenizers are fitted to."""

    @property
    def instructions(self) -> tuple[str, ...]:
        """All that the training and validation episodes say, once each."""
        parts = (*self.actions.parts, self.validation)
        return tuple(sorted({part.frames.tasks[task] for part in parts for task in set(part.frames.task[part.rows].tolist())}))

    @property
    def fingerprint(self) -> str:
        """Of the training episodes: what tells them from others, pictures and sentences included."""
        return fingerprint(self.actions.parts)


def load_demonstrations(
    *,
    embodiment: Mapping[str, Any],
    sources: Sequence[Source],
    weights: Sequence[float],
    chunks: Chunks,
    held_out: float,
    seed: int,
    demonstrations: int | None = None,
) -> Data:
    """Open the sources, hold out a share of each source's episodes, and mix the rest with the given weights.

    `demonstrations` limits the training episodes of the first source: fewer are some of more, and the held-out ones stay the same.

    Raises:
        ValueError: embodiment, dataset or weights are wrong; the message says which and what to do.
    """
    body = embodiment_from_record(embodiment)
    opened = [source.open(body, chunks) for source in sources]
    check_one_robot([data.embodiment for data in opened], [str(data.root) for data in opened])
    halves = [data.split(held_out, seed=seed) for data in opened]
    training = [first for first, _ in halves]
    if demonstrations is not None:
        training[0] = _some(training[0], demonstrations, seed=seed)
    statistics = dataset_statistics(*training)
    return Data(
        embodiment=training[0].embodiment,
        training=training[0] if len(training) == 1 else Mixture(training, weights),
        validation=halves[0][1],
        statistics=statistics,
        actions=NormalizedActions(training, statistics),
    )


def _some(samples: Demonstrations, count: int, *, seed: int) -> Demonstrations:
    if not 1 <= count <= len(samples.episodes):
        raise ValueError(
            f"demonstrations={count}: {len(samples.episodes)} episodes are there for training; choose 1 to all of them."
        )
    return samples.select(np.random.default_rng(seed).permutation(samples.episodes)[:count].tolist())
