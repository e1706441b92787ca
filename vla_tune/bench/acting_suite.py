"""How long policies take for a chunk, one observation at a time, as on a robot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium

from vla_tune.bench.measure import Row, Work, measure
from vla_tune.environment import observation_in
from vla_tune.schema import Embodiment, Observation, Policy


@dataclass(frozen=True, kw_only=True)
class ActingSuite:
    """Chunks per second of each policy on the first pictures of the same episodes."""

    policies: Mapping[str, Callable[[], Any]]
    """By name: what loads one (`LocalPolicy`)."""
    make_env: Callable[..., gymnasium.Env]
    """Makes an environment; takes `task` and `cameras` (name -> height, width)."""
    task: str
    episodes: int
    """Whose first observations are acted on, in one repetition."""
    repetitions: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("there is no policy to measure: name folders of runs, e.g. 'suite.runs=[runs/a,runs/b]'.")

    def rows(self) -> list[Row]:
        """A row for each policy."""
        works = [self._acting(name, load()) for name, load in self.policies.items()]
        return measure("acting", works, repetitions=self.repetitions)

    def _acting(self, name: str, policy: Any) -> Work:
        seen = self._observations(policy.contract.embodiment)
        return Work(name=name, unit="chunks", do=partial(_act, policy=policy, observations=seen))

    def _observations(self, body: Embodiment) -> list[Observation]:
        sizes = {camera.key.rpartition(".")[2]: (camera.height, camera.width) for camera in body.cameras}
        env = self.make_env(task=self.task, cameras=sizes)
        try:
            return [observation_in(env.reset(seed=self.seed + episode)[0], body) for episode in range(self.episodes)]
        finally:
            env.close()


def _act(_: None, *, policy: Policy, observations: Sequence[Observation]) -> int:
    for observation in observations:
        policy.act([observation])
    return len(observations)
