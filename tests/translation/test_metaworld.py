"""Meta-World as `conf/env/metaworld.yaml` says it: upright, by its own sentence, the same tables whatever runs side by side."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("metaworld")
from vla_tune.environment import observation_in, told
from vla_tune.evaluation import in_processes, rollout
from vla_tune.execution import OpenLoop
from vla_tune.run.objects import build
from vla_tune.run.stored import environment_of
from vla_tune.schema import embodiment_from_record

CONF = Path(__file__).parents[2] / "conf"
OPTION = yaml.safe_load((CONF / "env/metaworld.yaml").read_text())
TASK = "drawer-open-v3"
pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def body():
    return embodiment_from_record(yaml.safe_load((CONF / "embodiment/metaworld.yaml").read_text()))


@pytest.fixture(scope="module")
def make():
    return build(OPTION["make"])


@pytest.fixture
def chaotic(chaotic):
    from dataclasses import replace

    return replace(chaotic, low=(-1, -1, -1, -1), high=(1, 1, 1, 1))


def test_the_picture_is_upright(make, body):
    shown, _ = make(task=TASK).reset(seed=0)
    red, green, blue = np.moveaxis(observation_in(shown, body).images["front"].astype(int), -1, 0)
    arm, wood = red > 2 * np.maximum(green, blue), (red > blue + 20) & (red < 2 * blue)
    assert np.nonzero(arm)[1].mean() < 60, "the arm stands on the left"
    assert np.nonzero(wood)[0].mean() > 80, "the table lies below"


def test_it_shows_what_the_public_data_hold(make, body):
    shown, _ = make(task=TASK).reset(seed=0)
    seen = observation_in(shown, body)
    assert seen.instruction == "Open a drawer"
    np.testing.assert_allclose(seen.state, [0.005, 0.601, 0.195, 1.0], atol=2e-3)


def test_its_expert_tells_a_success(make):
    env, expert, info = make(task="button-press-v3"), build(OPTION["expert"]), {}
    env.reset(seed=4)
    for _ in range(100):
        *_, info = env.step(expert(env))
        if told(info):
            break
    assert told(info)


def test_every_task_is_listed_and_can_be_made(make):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert sorted(OPTION["tasks"]) == sorted(ALL_V3_ENVIRONMENTS)
    with pytest.raises(ValueError, match="no task 'drawer-open'; it has drawer-open-v3"):
        make(task="drawer-open")


def test_tables_are_the_same_at_every_number_of_environments(make, body, chaotic):
    cell = {"suite": "metaworld", "task": TASK, "seed": 1, "execution": OpenLoop(), "embodiment": body}
    short = partial(rollout, chaotic, partial(make, task=TASK, horizon=16), episodes=7, **cell)
    tables = [short(num_envs=number) for number in (1, 3, 7)]
    assert all(one == other for one, other in pairwise(tables))
    assert {record.steps for record in tables[0]} == {16}
    assert len({record.episode_return for record in tables[0]}) == 7


@pytest.mark.ci  # processes of their own
def test_processes_lead_to_the_same_tables(make, body, chaotic):
    cell = {"suite": "metaworld", "task": TASK, "seed": 1, "execution": OpenLoop(), "embodiment": body}
    short = partial(rollout, chaotic, partial(make, task=TASK, horizon=16), episodes=4, **cell)
    assert short(num_envs=1) == short(num_envs=2, vectorize=in_processes)


def test_a_stored_run_that_was_tried_there_is_opened(tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps({"env": OPTION}))
    shown, _ = environment_of(tmp_path)(task=TASK).reset(seed=0)
    assert shown["instruction"] == "Open a drawer"
