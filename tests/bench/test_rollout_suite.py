"""Counting steps and episodes."""

from typing import Any

import gymnasium
import pytest

from vla_tune.bench.rollout_suite import RolloutSuite
from vla_tune.execution import OpenLoop
from vla_tune.policy import LocalPolicy

TABLETOP = "envs:vla_tune/Tabletop-v0"


@pytest.fixture
def policy(policy_of) -> LocalPolicy:
    return policy_of(rows=2)


class Counting(gymnasium.Wrapper):
    """Counts; its episodes are three steps long."""

    steps = resets = closed = 0

    def reset(self, **arguments: Any) -> Any:
        self.resets += 1
        return self.env.reset(**arguments)

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.env.step(action)

    def close(self) -> None:
        self.closed += 1
        self.env.close()


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_steps_are_taken_with_and_without_images_and_episodes_are_played(policy: LocalPolicy):
    made: list[tuple[dict[str, Any], Counting]] = []

    def make_env(**arguments: Any) -> gymnasium.Env:
        env = Counting(gymnasium.make(TABLETOP, disable_env_checker=True, max_episode_steps=3, **arguments))
        made.append((arguments, env))
        return env

    suite = RolloutSuite(
        make_env=make_env,
        task="touch",
        policy=lambda: policy,
        execution=OpenLoop(),
        steps=7,
        episodes=3,
        num_envs=2,
        repetitions=2,
    )
    rows = suite.rows()
    assert [(row["unit"], row["amount"]) for row in rows] == [("steps", 7), ("steps", 7), ("episodes", 3)]
    assert [row["baseline"] for row in rows] == ["steps without images", "steps without images", "policy"]
    (blind_arguments, blind), (seeing_arguments, seeing) = made[:2]
    assert blind_arguments == {"task": "touch", "cameras": {}}
    assert seeing_arguments == {"task": "touch", "cameras": {"front": (64, 64)}}
    for env in (blind, seeing):
        assert (env.steps, env.resets, env.closed) == (3 * 7, 3 * 3, 1)  # 7 steps are 2 whole episodes and a third one
    assert len(made) == 2 + 3 * 2  # two environments at a time for the policy
