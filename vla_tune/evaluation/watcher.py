"""Who looks on while episodes are played, e.g. to film."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.schema import Observation


@runtime_checkable
class Watcher(Protocol):
    """Looks on, e.g. to film."""

    def see(self, episode: int, observation: Observation) -> None:
        """What the policy could see in `episode` at a tick, the last one included."""
        ...

    def finish(self, record: EpisodeRecord) -> None:
        """The end of an episode."""
        ...


@dataclass(frozen=True)
class Nobody:
    """The watcher who does not look."""

    def see(self, episode: int, observation: Observation) -> None:
        """Looks away."""

    def finish(self, record: EpisodeRecord) -> None:
        """Keeps nothing."""


NOBODY = Nobody()


@dataclass(frozen=True)
class Several:
    """Watchers beside each other."""

    watchers: Sequence[Watcher]

    def see(self, episode: int, observation: Observation) -> None:
        """All of them look."""
        for watcher in self.watchers:
            watcher.see(episode, observation)

    def finish(self, record: EpisodeRecord) -> None:
        """All of them are told."""
        for watcher in self.watchers:
            watcher.finish(record)
