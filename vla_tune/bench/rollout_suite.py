"""How fast episodes are played."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gymnasium

from vla_tune.bench.measure import Row, Work, measure
from vla_tune.evaluation.rollout import rollout
from vla_tune.execution import Execution
from vla_tune.policy import LocalPolicy


@dataclass(frozen=True, kw_only=True)
class RolloutSuite:
    """Environment steps per second without a model (blind, and with the cameras' pictures), and episodes per second with one."""

    make_env: Callable[..., gymnasium.Env]
    """Makes an environment; takes `task` and `cameras` (name -> height, width)."""
    task: str
    policy: Callable[[], LocalPolicy]
    execution: Execution
    steps: int
    """Without a model, in one repetition."""
    episodes: int
    """With the policy, in one repetition."""
    num_envs: int
    """Side by side, with the policy."""
    repetitions: int
    seed: int = 0

    def rows(self) -> list[Row]:
        """Three rows."""
        policy = self.policy()
        cameras = policy.contract.embodiment.cameras
        sizes = {camera.key.rpartition(".")[2]: (camera.height, camera.width) for camera in cameras}
        make_env = partial(self.make_env, task=self.task, cameras=sizes)
        blind, seeing = self.make_env(task=self.task, cameras={}), make_env()
        works = [
            Work(name="steps without images", unit="steps", do=partial(self._step, env=blind)),
            Work(name="steps with images", unit="steps", do=partial(self._step, env=seeing)),
            Work(name="policy", unit="episodes", do=partial(self._play, policy=policy, make_env=make_env)),
        ]
        try:
            return measure("rollout", works, repetitions=self.repetitions)
        finally:
            blind.close()
            seeing.close()

    def _step(self, _: None, *, env: gymnasium.Env) -> int:
        """Random actions, the same at every repetition; a finished episode is followed by the next."""
        env.action_space.seed(self.seed)
        env.reset(seed=self.seed)
        for _number in range(self.steps):
            *_rest, terminated, truncated, _info = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        return self.steps

    def _play(self, _: None, *, policy: LocalPolicy, make_env: Callable[[], gymnasium.Env]) -> int:
        records = rollout(
            policy,
            make_env,
            suite="bench",
            task=self.task,
            episodes=self.episodes,
            seed=self.seed,
            embodiment=policy.contract.embodiment,
            execution=self.execution,
            num_envs=self.num_envs,
        )
        return len(records)
