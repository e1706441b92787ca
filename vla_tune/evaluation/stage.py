"""Episodes being played: the environments of an evaluation, and who plays in which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from vla_tune.environment import Once, SuccessRule
from vla_tune.evaluation.environments import Pool
from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.evaluation.watcher import Watcher
from vla_tune.execution import Player
from vla_tune.schema import Observation, Policy, WatchedPolicy
from vla_tune.workers import Tick

_ENDLESS = 10_000
"""Steps after which an episode is taken for endless, where the environment declares no limit and no other is set."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When an episode is over, and what counts."""

    success: SuccessRule = field(default_factory=Once)
    max_steps: int | None = None
    """Steps after which an episode is cut; None leaves the end to the environment."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps}: an episode has at least 1 step; null leaves its end to the environment.")


@dataclass
class Episode:
    """An episode to play, being played, or over."""

    suite: str
    task: str
    index: int
    seed: int
    player: Player
    instruction: str | None = None
    success: bool = False
    steps: int = 0
    total: float = 0.0
    outside_mass: float | None = None

    def take(self, tick: Tick, rule: SuccessRule) -> None:
        """Counts a step; what is not told was not reached, as some environments tell of a success only when it happens."""
        self.steps += 1
        self.total += tick.reward
        self.success = rule(self.success, bool(tick.success))

    @property
    def record(self) -> EpisodeRecord:
        """How it went so far."""
        assert self.instruction is not None, "an episode that has not begun has no record"
        return EpisodeRecord(
            suite=self.suite,
            task=self.task,
            episode=self.index,
            seed=self.seed,
            instruction=self.instruction,
            success=self.success,
            steps=self.steps,
            episode_return=self.total,
            outside_mass=self.outside_mass,
        )


@runtime_checkable
class InRows(Protocol):
    """A policy whose forward pass costs the same for any number of observations up to `rows`."""

    rows: int


class Stage:
    """Plays the episodes of `cast`, each in the next environment that is free.

    An environment plays what is known of its episode's actions at one go. As soon as those that show what comes of it fill a
    forward pass, the policy is asked for them, while the others go on.
    """

    def __init__(self, pool: Pool, cast: Sequence[Episode], watcher: Watcher, rules: Rules) -> None:
        self._pool, self._watcher, self._rules = pool, watcher, rules
        self._limit = pool.about().limit or _ENDLESS
        self._waiting = iter(cast)
        self._playing: dict[int, Episode] = {}
        self._asking: dict[int, Observation] = {}
        self.cut = 0
        """Episodes that the rules ended."""
        self.told = False
        """Whether any environment ever told of success."""

    def play(self, policy: Policy) -> None:
        """All of them."""
        rows = policy.rows if isinstance(policy, InRows) else 1
        for row in range(self._pool.size):
            self._begin(row)
        while self._playing:
            at_work = len(self._asking) < len(self._playing)
            full = len(self._asking) // rows * rows
            self._act(policy, list(self._asking)[: full if at_work else None])
            for row, ticks in self._pool.answers().items():
                self._take(row, ticks)

    def _begin(self, row: int) -> None:
        """The next waiting episode, if there is one."""
        self._playing.pop(row, None)
        if episode := next(self._waiting, None):
            self._playing[row] = episode
            self._pool.ask(row, "begin", seed=episode.seed, episode=episode.index, look=True)

    def _act(self, policy: Policy, asking: Sequence[int]) -> None:
        seen = {row: self._asking.pop(row) for row in asking}
        if not seen:
            return
        self._sample_outside_mass(policy, {row: one for row, one in seen.items() if not self._playing[row].steps})
        for row, chunk in zip(seen, policy.act(list(seen.values())), strict=True):
            self._playing[row].player.add(chunk)
            self._go_on(row)

    def _go_on(self, row: int) -> None:
        """Takes all actions that are known."""
        episode, most = self._playing[row], self._rules.max_steps
        actions = [episode.player.next()]
        while not episode.player.needs_chunk and episode.steps + len(actions) != most:
            actions.append(episode.player.next())
        last = episode.steps + len(actions) != most
        self._pool.ask(row, "play", actions=np.stack(actions), each=self._watcher.looks(episode.index), last=last)

    def _sample_outside_mass(self, policy: Policy, seen: Mapping[int, Observation]) -> None:
        """On the first step of an episode; on every step it would cost as much as acting."""
        if not seen or not isinstance(policy, WatchedPolicy):
            return
        masses = policy.outside_mass(list(seen.values()))
        for row, mass in zip(seen, [] if masses is None else masses.tolist(), strict=masses is not None):
            self._playing[row].outside_mass = mass

    def _take(self, row: int, ticks: Sequence[Tick]) -> None:
        episode = self._playing[row]
        begins = episode.instruction is None
        for tick in ticks:
            self.told |= tick.success is not None
            if self._watcher.looks(episode.index):
                self._watcher.see(episode.index, tick.seen)
            if begins:
                episode.instruction = tick.seen.instruction
            else:
                episode.take(tick, self._rules.success)
        if self._is_over(episode, ticks[-1]):
            self._watcher.finish(episode.record)
            self._begin(row)
        else:
            self._asking[row] = ticks[-1].seen

    def _is_over(self, episode: Episode, tick: Tick) -> bool:
        if not tick.over and episode.steps == self._rules.max_steps:
            self.cut += 1
            return True
        if not tick.over and episode.steps > self._limit:
            raise ValueError(
                f"episode {episode.index} is still going on after {self._limit:,} steps: register the environment with "
                "max_episode_steps, or set evaluation.max_steps, after which an episode is cut."
            )
        return tick.over
