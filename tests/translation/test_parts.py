"""Rotations, grippers, tasks and seeds one by one; gymnasium's own environments, which only render."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_tune.translation import (
    Action,
    AnyTask,
    Clip,
    FromLeRobot,
    FromObservation,
    Gripper,
    Numbers,
    Registered,
    Rendered,
    RotationVector,
    SeedCall,
    Sentences,
    Tasks,
    Terminated,
    translated,
)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda numbers: np.linalg.norm(numbers) > 0.1))
def test_a_rotation_vector_turns_as_the_quaternion_does(numbers):
    quaternion = np.array(numbers) / np.linalg.norm(numbers)
    expected = Rotation.from_quat(quaternion).as_matrix()
    vector = RotationVector(order="xyzw")(quaternion)
    np.testing.assert_allclose(Rotation.from_rotvec(vector).as_matrix(), expected, atol=1e-6)
    np.testing.assert_allclose(RotationVector(order="wxyz")(np.roll(quaternion, 1)), vector)
    assert 0 <= np.linalg.norm(vector) <= 2 * np.pi + 1e-9


@pytest.mark.parametrize(("said", "leaves"), [(0.0, -1.0), (1.0, 1.0), (0.25, -0.5), (1.5, 2.0)])
def test_a_gripper_leaves_as_far_between_its_ends(said, leaves):
    gripper = Gripper(of=1, robot={"engaged": 0.0, "released": 1.0}, environment={"engaged": -1.0, "released": 1.0})
    assert gripper(np.array([9.0, said])).tolist() == [leaves]


def test_numbers_are_chosen_in_order():
    part = Numbers(of=[2, 0], scale=[-10.0, 2.0], offset=1.0)
    assert part(np.array([1.0, 5.0, 3.0])).tolist() == [-29.0, 3.0]


def made(id_: str, *, cameras=None, success=None, tasks=None, **more):
    return translated(
        task="swing",
        environment=Registered(id=id_, arguments={} if cameras is None else {"render_mode": "rgb_array"}),
        tasks=tasks or Tasks(of={"swing": {}}),
        cameras=cameras or {},
        state=[FromObservation(key="", at="0:2")],
        action=Action(dimension=1, parts=[Numbers(of=0, scale=2.0)], beyond=Clip()),
        instruction=Sentences(of={"swing": "swing it up"}),
        success=success or Terminated(),
        horizon=3,
        control_hz=20.0,
        **more,
    )


@pytest.mark.sim
@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated as an API:UserWarning", "ignore::DeprecationWarning")  # pygame's
def test_gymnasiums_pendulum_is_seen_by_what_it_renders():
    pytest.importorskip("pygame")
    env, own = made("Pendulum-v1", cameras={"front": Rendered()}), gymnasium.make("Pendulum-v1", render_mode="rgb_array")
    (shown, _), (raw, _) = (each.reset(seed=3) for each in (env, own))
    assert np.array_equal(shown["images"]["front"](), own.render())
    assert np.array_equal(shown["state"], raw[:2])
    (_, reward, *_), (_, expected, *_) = env.step(np.array([0.5], np.float32)), own.step(np.array([1.0], np.float32))
    assert reward == expected
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(2)] == [False, True]
    env.close()
    own.close()


def test_actions_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r"env.make.action: the environment takes Discrete\(2\), and not numbers \(Box\)"):
        made("CartPole-v1")


def test_another_number_of_actions_is_refused():
    wide = Action(dimension=1, parts=[Numbers(of=0), Numbers(of=0)], beyond=Clip())
    with pytest.raises(ValueError, match=r"takes actions of shape \[3\], `action.parts` make 2 numbers"):
        wide(np.zeros(1, np.float32), gymnasium.spaces.Box(-1, 1, (3,)))


def test_any_task_is_an_argument():
    assert AnyTask(argument="env_name")("push") == {"env_name": "push"}
    with pytest.raises(ValueError, match=r"Pendulum-v1: .*unexpected keyword argument 'env_name'"):
        made("Pendulum-v1", tasks=AnyTask(argument="env_name"))


def test_a_method_takes_the_seed():
    class Own(gymnasium.Env):
        def seed(self, seed):
            self.seeded = seed

    env = gymnasium.wrappers.TimeLimit(Own(), 3)
    SeedCall(path="seed")(env, 5)
    assert env.unwrapped.seeded == 5


def test_an_unknown_type_of_lerobot_is_named():
    with pytest.raises(ValueError, match=r"LeRobot has no environment of type 'pushed'; it has .*pusht, .*vla_tune"):
        FromLeRobot(type="pushed")()


def test_a_limit_that_lerobot_puts_around_an_environment_is_taken_off(monkeypatch):
    from lerobot.envs import EnvConfig

    class Limited:
        def create_envs(self, n_envs, use_async_envs):
            make = lambda: gymnasium.wrappers.OrderEnforcing(gymnasium.make("CartPole-v1", max_episode_steps=3))  # noqa: E731
            return {"cart": {0: gymnasium.vector.SyncVectorEnv([make])}}

    monkeypatch.setattr(EnvConfig, "get_known_choices", lambda: {"cart": Limited})
    env = FromLeRobot(type="cart")()
    env.reset(seed=0)
    ended = [env.step(number % 2) for number in range(6)]
    assert not any(truncated for _, _, _, truncated, _ in ended)


@pytest.mark.parametrize(("said", "found"), [({}, "egl"), ({"MUJOCO_GL": "osmesa"}, "osmesa")])
def test_mujoco_draws_without_a_screen_unless_told_how(said, found):
    """MuJoCo reads it when it is imported."""
    bare = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    command = [sys.executable, "-c", "import vla_tune, os; print(os.environ['MUJOCO_GL'])"]
    assert subprocess.run(command, env=bare | said, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == found


def test_an_argument_that_is_none_is_told_with_the_environment():
    with pytest.raises(ValueError, match=r"CartPole-v1: .*unexpected keyword argument 'colour'"):
        Registered(id="CartPole-v1", arguments={"colour": "red"})()
