"""Seeded episodes of a policy in a vector environment; one record per episode, whatever runs side by side."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Bool

from vla_tune.evaluation.environments import (
    MakeEnv,
    Vectorize,
    check_fit,
    check_seeding,
    in_turn,
    observation_of,
    park,
    parking,
    start,
)
from vla_tune.evaluation.episodes import EpisodeRecord, episode_seed
from vla_tune.execution import Execution, Player
from vla_tune.policy import Policy, WatchedPolicy
from vla_tune.schema import Embodiment, Observation


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


def rollout(
    policy: Policy,
    make_env: MakeEnv,
    *,
    suite: str,
    task: str,
    episodes: int,
    seed: int,
    embodiment: Embodiment,
    execution: Execution,
    num_envs: int,
    vectorize: Vectorize = in_turn,
    watcher: Watcher = NOBODY,
) -> list[EpisodeRecord]:
    """Records of episodes 0 to `episodes` - 1, each from its own seed, `num_envs` side by side.

    At every tick the policy is asked once, for the environments that need a chunk. A deterministic policy leads to the same
    records at every `num_envs`.

    Args:
        policy: Acts in the embodiment's units, which are those of the environment.
        make_env: Makes an environment of `task`: observations {"images": {name: uint8 [H W 3]}, "state": float32 [S],
            "instruction": str}, and `info["success"]` at every step. An image's name is the last part of its camera's key.
        suite: Name of the set of tasks; part of the seeds.
        task: Name of the task; part of the seeds.
        episodes: How many.
        seed: Where all randomness comes from.
        embodiment: Says which picture is which camera, and which action dimension is a gripper.
        execution: How chunks become actions.
        num_envs: How many environments at once.
        vectorize: `in_turn` or `in_processes`.
        watcher: Sees what the policy sees.

    Raises:
        ValueError: a number is not positive, or the environment ignores its seed or does not fit the embodiment.
    """
    for name, value in {"episodes": episodes, "num_envs": num_envs}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1.")
    seeds = [episode_seed(seed, suite=suite, task=task, episode=index) for index in range(episodes)]
    cast = [_Episode(suite, task, index, value, execution.player(embodiment)) for index, value in enumerate(seeds)]
    with closing(vectorize(parking(make_env, min(num_envs, episodes)))) as envs:
        check_fit(envs, embodiment)
        check_seeding(envs, seeds[0])
        policy.reset()
        stage = _Stage(envs, embodiment, cast, watcher)
        while stage.busy:
            stage.tick(policy)
    return [episode.record for episode in cast]


@dataclass
class _Episode:
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


class _Stage:
    """The environments, and who plays in which."""

    def __init__(self, envs: VectorEnv, embodiment: Embodiment, cast: Sequence[_Episode], watcher: Watcher) -> None:
        self._envs, self._embodiment, self._watcher = envs, embodiment, watcher
        self._waiting = iter(cast)
        self._playing: dict[int, _Episode] = {}
        self._start(np.ones(envs.num_envs, dtype=bool))

    @property
    def busy(self) -> bool:
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
        self._start(terminated | truncated)

    def _sample_outside_mass(self, policy: Policy, rows: list[int]) -> None:
        """On the first step of an episode; on every step it would cost as much as acting."""
        if not rows or not isinstance(policy, WatchedPolicy):
            return
        masses = policy.outside_mass([self._observation(row) for row in rows])
        for row, mass in zip(rows, [] if masses is None else masses.tolist(), strict=masses is not None):
            self._playing[row].outside_mass = mass

    def _take(self, rewards: np.ndarray, infos: dict[str, Any]) -> None:
        if "success" not in infos:
            raise ValueError(f"the environment reports {sorted(infos)} but no info['success']: wrap it so that every step does.")
        for row, episode in self._playing.items():
            episode.steps += 1
            episode.total += float(rewards[row])
            episode.success = bool(infos["success"][row])
            self._watcher.see(episode.index, self._observation(row))

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
            self._observations = start(self._envs, seeds, begins)
        if (free & ~begins).any():
            park(self._envs, free & ~begins)
        for row in np.flatnonzero(begins).tolist():
            self._playing[row].instruction = self._observation(row).instruction
            self._watcher.see(self._playing[row].index, self._observation(row))

    def _observation(self, row: int) -> Observation:
        return observation_of(self._observations, row, self._embodiment)
