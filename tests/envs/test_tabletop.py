from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

import envs  # noqa: F401  (registers)
from envs.experts import expert_action
from envs.goals import TASKS
from envs.wrappers import DistractorInstruction

NAME = "vla_tune/Tabletop-v0"
CAMERAS = {"front": (64, 64), "side": (48, 80)}


def make(task: str = "lift", **options: Any) -> gymnasium.Env:
    return gymnasium.make(NAME, task=task, **options)


def rollout(env: gymnasium.Env, seed: int, steps: int) -> list[Any]:
    """Observations of random actions that follow from the seed."""
    observations, rng = [env.reset(seed=seed)[0]], np.random.default_rng(seed)
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(random_action(env, rng))
        observations.append(observation)
        assert not terminated
        assert not truncated
    return observations


def random_action(env: gymnasium.Env, rng: np.random.Generator) -> np.ndarray:
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    return rng.uniform(space.low, space.high).astype(np.float32)


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    else:
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_accepts_the_environment(task: str):
    check_env(make(task, cameras=CAMERAS, render_mode="rgb_array").unwrapped)


def test_registered_by_its_module_and_limited_to_60_steps():
    env = gymnasium.make("envs:" + NAME)
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(60)]
    assert ends == [(False, False)] * 59 + [(False, True)]


def test_observation_is_what_the_data_sheet_says():
    env = make(cameras=CAMERAS)
    observation, info = env.reset(seed=0)
    assert {name: image.shape for name, image in observation["images"].items()} == {"front": (64, 64, 3), "side": (48, 80, 3)}
    np.testing.assert_allclose(observation["state"][:3], env.unwrapped.scene.tool(), atol=1e-7)
    assert observation["instruction"] == info["instruction"] != info["distractor_instruction"]
    assert info["task"] == "lift"
    observation, *_ = env.step(np.array([0, 0, 0, 1], np.float32))
    assert observation["state"][3] == 1


@pytest.mark.parametrize("task", TASKS)
def test_expert_is_rewarded_once_and_ends_the_episode(task: str):
    env = make(task)
    env.reset(seed=1)
    rewards, terminated, truncated, info = [], False, False, {}
    while not (terminated or truncated):
        action = expert_action(env.unwrapped.goal, env.unwrapped.scene)
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
    assert (terminated, truncated, info["success"]) == (True, False, True)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_everything_follows_from_the_seed():
    first, second = make("stack", cameras=CAMERAS), make("stack", cameras=CAMERAS)
    first.reset(seed=99)
    assert_same(dict(enumerate(rollout(first, 7, 20))), dict(enumerate(rollout(second, 7, 20))))
    assert not np.array_equal(first.reset(seed=7)[0]["state"], first.reset(seed=8)[0]["state"])


@pytest.fixture(params=["sync", "fork", "spawn"])
def vector(request: pytest.FixtureRequest) -> Iterator[Callable[[list[Callable[[], gymnasium.Env]]], VectorEnv]]:
    opened: list[VectorEnv] = []

    def build(makers: list[Callable[[], gymnasium.Env]]) -> VectorEnv:
        if request.param == "sync":
            opened.append(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED))
        else:
            mode = AutoresetMode.DISABLED
            opened.append(AsyncVectorEnv(makers, shared_memory=False, context=request.param, autoreset_mode=mode))
        return opened[-1]

    yield build
    for env in opened:
        env.close()


# Python warns of any fork in a process with threads (torch's, in the whole suite); ours draws with none.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_vector_environments_show_what_a_solo_run_shows(vector: Callable[..., VectorEnv]):
    solo = [rollout(make("stack", cameras=CAMERAS), seed, 6) for seed in (3, 4)]  # draws here before any fork
    env = vector([partial(gymnasium.make, f"envs:{NAME}", task="stack", cameras=CAMERAS)] * 2)
    rngs = [np.random.default_rng(seed) for seed in (3, 4)]
    observations = [env.reset(seed=[3, 4])[0]]
    single = make("stack")
    for _ in range(6):
        actions = np.stack([random_action(single, rng) for rng in rngs])
        observations.append(env.step(actions)[0])
    for step, batch in enumerate(observations):
        for index in range(2):
            images = {name: batch["images"][name][index] for name in CAMERAS}
            assert_same(images, solo[index][step]["images"])
            assert_same(batch["state"][index], solo[index][step]["state"])
            assert batch["instruction"][index] == solo[index][step]["instruction"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_one_environment_of_a_vector_restarts_alone(vector: Callable[..., VectorEnv]):
    env = vector([partial(gymnasium.make, f"envs:{NAME}", task="touch")] * 2)
    before, _ = env.reset(seed=[1, 2])
    first_state, first_words = before["state"][0].copy(), before["instruction"][0]
    after, info = env.reset(seed=[5, 6], options={"reset_mask": np.array([False, True])})
    np.testing.assert_array_equal(after["state"][0], first_state)
    assert after["instruction"][0] == first_words
    expected, _ = make("touch").reset(seed=6)
    np.testing.assert_array_equal(after["state"][1], expected["state"])
    np.testing.assert_array_equal(after["images"]["front"][1], expected["images"]["front"])
    assert info["instruction"][1] == expected["instruction"] == after["instruction"][1]


def test_shared_memory_is_refused_because_it_loses_the_instruction():
    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([make])


def test_options_may_change_the_task():
    env = make("lift")
    assert env.reset(seed=0, options={"task": "touch", "unknown": 1})[1]["task"] == "touch"
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        env.reset(options={"task": "fly"})


def test_distractor_instruction_hides_the_goal_but_not_the_success():
    with closing(DistractorInstruction(make("lift"))) as env:
        observation, info = env.reset(seed=0)
        goal, scene = env.unwrapped.goal, env.unwrapped.scene
        assert observation["instruction"] == info["distractor_instruction"]
        assert scene.colours[goal.target] not in observation["instruction"]
        terminated = False
        while not terminated:
            observation, reward, terminated, truncated, info = env.step(expert_action(goal, scene))
            assert not truncated
            assert observation["instruction"] == info["distractor_instruction"] != info["instruction"]
        assert (reward, info["success"]) == (1.0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "fly"}, "unknown task 'fly': choose from push_left"),
        ({"cameras": {"wrist": (64, 64)}}, "unknown camera 'wrist': choose from front, side, overview"),
        ({"cameras": {"front": (64, 1000)}}, "size 64 x 1000 must lie between"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_render_shows_the_overview():
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
