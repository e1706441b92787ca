"""Who looks on while episodes are played, e.g. to film."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.schema import Observation


@runtime_checkable
class Watcher(Protocol):
    """Looks on, e.g. to film."""

    def looks(self, episode: int) -> bool:
        """Whether it wants to see `episode`, whose pictures are then drawn at every tick."""
        ...

    def see(self, episode: int, observation: Observation) -> None:
        """What the policy could see in `episode` at a tick, the last one included."""
        ...

    def finish(self, record: EpisodeRecord) -> None:
        """The end of an episode."""
        ...


@dataclass(frozen=True)
class Nobody:
    """The watcher who does not look."""

    def looks(self, episode: int) -> bool:
        """Never."""
        return False

    def see(self, episode: int, observation: Observation) -> None:
        """Looks away."""

    def finish(self, record: EpisodeRecord) -> None:
        """Keeps nothing."""


NOBODY = Nobody()


@dataclass(frozen=True)
class Several:
    """Watchers beside each other."""

    watchers: Sequence[Watcher]

    def looks(self, episode: int) -> bool:
        """If one does."""
        return any(watcher.looks(episode) for watcher in self.watchers)

    def see(self, episode: int, observation: Observation) -> None:
        """Those that look see it."""
        for watcher in self.watchers:
            if watcher.looks(episode):
                watcher.see(episode, observation)

    def finish(self, record: EpisodeRecord) -> None:
        """All of them are told."""
        for watcher in self.watchers:
            watcher.finish(record)
