"""PushT as `conf/env/pusht.yaml` says it: what it shows is gym-pusht's own, and tables do not depend on what runs side by side."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_tune.environment import observation_in
from vla_tune.evaluation import in_processes, rollout
from vla_tune.execution import OpenLoop
from vla_tune.run.objects import build
from vla_tune.schema import embodiment_from_record

CONF = Path(__file__).parents[2] / "conf"
pytestmark = [
    pytest.mark.sim,
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated as an API:UserWarning"),  # pygame's
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what pygame and pymunk import
]


@pytest.fixture(scope="module")
def body():
    return embodiment_from_record(yaml.safe_load((CONF / "embodiment/pusht.yaml").read_text()))


@pytest.fixture(scope="module")
def make():
    pytest.importorskip("pymunk")
    return build(yaml.safe_load((CONF / "env/pusht.yaml").read_text())["make"])


class Pushing:
    """Goes where the sum of what it sees says: a bit of difference in a picture leads elsewhere."""

    def act(self, observations):
        return np.stack([self.chunk(observation) for observation in observations])

    def chunk(self, observation):
        words = int(observation.images["front"].astype(np.int64).sum())
        there = np.random.default_rng([words, *observation.state.astype(np.int64).tolist()]).uniform(60, 450, 2)
        return np.linspace(observation.state, there, 4, dtype=np.float32)

    def reset(self):
        pass


def test_it_shows_what_gym_pusht_does(make, body):
    import gymnasium

    env, own = make(task="pusht"), gymnasium.make("gym_pusht:gym_pusht/PushT-v0", obs_type="pixels_agent_pos")
    (shown, _), (raw, _) = (each.reset(seed=7) for each in (env, own))
    seen, action = observation_in(shown, body), np.array([300.0, 100.0], np.float32)
    assert np.array_equal(seen.images["front"], raw["pixels"])
    np.testing.assert_allclose(seen.state, raw["agent_pos"])
    assert seen.images["front"].std() > 0
    (shown, reward, *_, info), (raw, expected, *_, told) = env.step(action), own.step(action)
    assert (reward, info["success"]) == (expected, told["is_success"])
    assert np.array_equal(shown["images"]["front"](), raw["pixels"])


def test_tables_are_the_same_at_every_number_of_environments(make, body):
    cell = {"suite": "pusht", "task": "pusht", "seed": 1, "execution": OpenLoop(), "embodiment": body}
    short = partial(rollout, Pushing(), partial(make, task="pusht", horizon=20), episodes=7, **cell)
    tables = [short(num_envs=number) for number in (1, 3, 7)]
    assert all(one == other for one, other in pairwise(tables))
    assert {record.steps for record in tables[0]} == {20}
    assert len({record.episode_return for record in tables[0]}) > 1


@pytest.mark.ci  # processes of their own
def test_processes_lead_to_the_same_tables(make, body):
    cell = {"suite": "pusht", "task": "pusht", "seed": 1, "execution": OpenLoop(), "embodiment": body}
    short = partial(rollout, Pushing(), partial(make, task="pusht", horizon=20), episodes=4, **cell)
    assert short(num_envs=1) == short(num_envs=2, vectorize=in_processes)
