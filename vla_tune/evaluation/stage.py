"""Episodes being played: the environments of an evaluation, and who plays in which."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Bool

from vla_tune.environment import Once, SuccessRule
from vla_tune.evaluation.environments import declared_limit, observation_of, park, start, success_of
from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.evaluation.watcher import Watcher
from vla_tune.execution import Player
from vla_tune.schema import Embodiment, Observation, Policy, WatchedPolicy

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
    instruction: str = ""
    success: bool = False
    steps: int = 0
    total: float = 0.0
    outside_mass: float | None = None

    @property
    def record(self) -> EpisodeRecord:
        """How it went so far."""
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


class Stage:
    """Plays the episodes of `cast`, each in the next environment that is free."""

    def __init__(self, envs: VectorEnv, embodiment: Embodiment, cast: Sequence[Episode], watcher: Watcher, rules: Rules) -> None:
        self._envs, self._embodiment, self._watcher, self._rules = envs, embodiment, watcher, rules
        self._limit = declared_limit(envs) or _ENDLESS
        self._waiting = iter(cast)
        self._playing: dict[int, Episode] = {}
        self.cut = 0
        """Episodes that the rules ended."""
        self.told = False
        """Whether any environment ever told of success."""
        self._start(np.ones(envs.num_envs, dtype=bool))

    @property
    def busy(self) -> bool:
        """Whether an episode is being played."""
        return bool(self._playing)

    def tick(self, policy: Policy) -> None:
        """One step of every environment."""
        asking = {row: episode for row, episode in self._playing.items() if episode.player.needs_chunk}
        if asking:
            self._sample_outside_mass(policy, [row for row, episode in asking.items() if not episode.steps])
            chunks = policy.act([self._observation(row) for row in asking])
            for episode, chunk in zip(asking.values(), chunks, strict=True):
                episode.player.add(chunk)
        actions = np.zeros(self._envs.action_space.shape or (), dtype=self._envs.action_space.dtype)
        for row, episode in self._playing.items():
            actions[row] = episode.player.next()
        self._observations, rewards, terminated, truncated, infos = self._envs.step(actions)
        self._take(rewards, infos)
        self._start(self._cut(terminated | truncated))

    def _sample_outside_mass(self, policy: Policy, rows: list[int]) -> None:
        """On the first step of an episode; on every step it would cost as much as acting."""
        if not rows or not isinstance(policy, WatchedPolicy):
            return
        masses = policy.outside_mass([self._observation(row) for row in rows])
        for row, mass in zip(rows, [] if masses is None else masses.tolist(), strict=masses is not None):
            self._playing[row].outside_mass = mass

    def _take(self, rewards: np.ndarray, infos: dict[str, Any]) -> None:
        for row, episode in self._playing.items():
            episode.steps += 1
            episode.total += float(rewards[row])
            episode.success = self._rules.success(episode.success, self._told(infos, row))
            self._watcher.see(episode.index, self._observation(row))

    def _told(self, infos: dict[str, Any], row: int) -> bool:
        """What is not told was not reached: some environments tell of a success only when it happens."""
        success = success_of(infos, row)
        self.told |= success is not None
        return bool(success)

    def _cut(self, over: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Which environments are free, with those whose episode is ended here."""
        over = over.copy()
        for row, episode in self._playing.items():
            if over[row]:
                continue
            if self._rules.max_steps is not None and episode.steps >= self._rules.max_steps:
                over[row], self.cut = True, self.cut + 1
            elif episode.steps > self._limit:
                raise ValueError(
                    f"episode {episode.index} is still going on after {self._limit:,} steps: register the environment with "
                    "max_episode_steps, or set evaluation.max_steps, after which an episode is cut."
                )
        return over

    def _start(self, free: Bool[np.ndarray, " N"]) -> None:
        """Begin waiting episodes in the `free` environments, and park those for which none is left."""
        begins = np.zeros_like(free)
        for row in np.flatnonzero(free).tolist():
            if over := self._playing.pop(row, None):
                self._watcher.finish(over.record)
            if episode := next(self._waiting, None):
                self._playing[row], begins[row] = episode, True
        if begins.any():
            seeds = [self._playing[row].seed if begin else None for row, begin in enumerate(begins)]
            numbers = [self._playing[row].index if begin else 0 for row, begin in enumerate(begins)]
            self._observations, infos = start(self._envs, seeds, begins, numbers)
            for row in np.flatnonzero(begins).tolist():
                self._told(infos, row)
        if (free & ~begins).any():
            park(self._envs, free & ~begins)
        for row in np.flatnonzero(begins).tolist():
            self._playing[row].instruction = self._observation(row).instruction
            self._watcher.see(self._playing[row].index, self._observation(row))

    def _observation(self, row: int) -> Observation:
        try:
            return observation_of(self._observations, row, self._embodiment)
        except ValueError as error:
            episode = self._playing[row]
            raise ValueError(f"episode {episode.index}, step {episode.steps}: {error}") from None
