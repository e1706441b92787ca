import numpy as np
import pytest

from envs.experts import expert_action
from envs.goals import TASKS, Goal, draw_goal, success
from envs.scene import ACTION_HIGH, ACTION_LOW, Scene


def start(task: str, seed: int) -> tuple[Scene, Goal]:
    rng, scene = np.random.default_rng(seed), Scene()
    while True:
        scene.scatter(rng)
        if goal := draw_goal(scene, (task,), rng):
            return scene, goal


def steps_to_success(scene: Scene, goal: Goal) -> int | None:
    cubes = scene.cubes()
    for step in range(1, 61):
        scene.step(expert_action(goal, scene))
        if success(goal, scene, cubes):
            return step
    return None


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.ci)])
@pytest.mark.parametrize("task", TASKS)
def test_expert_reaches_all_goals(task: str, count: int):
    steps = [steps_to_success(*start(task, seed)) for seed in range(count)]
    assert None not in steps, f"failed for seeds {[seed for seed, n in enumerate(steps) if n is None]}"


@pytest.mark.parametrize("task", TASKS)
def test_expert_is_a_pure_function_of_the_state(task: str):
    scene, goal = start(task, 0)
    moments = []
    for _ in range(25):
        moment = scene.snapshot()
        moments.append((moment, action := expert_action(goal, scene)))
        np.testing.assert_array_equal(scene.snapshot().physics, moment.physics)
        assert action.dtype == np.float32
        assert ((action >= ACTION_LOW) & (action <= ACTION_HIGH)).all()
        scene.step(action)
    elsewhere = Scene()
    for moment, action in reversed(moments):
        elsewhere.restore(moment)
        np.testing.assert_array_equal(expert_action(goal, elsewhere), action)


@pytest.mark.parametrize("task", TASKS)
def test_expert_takes_over_in_the_middle_of_another_goal(task: str):
    """From a cube held in the air, and from a noisy approach: what counterfactual demonstrations ask for."""
    rng, tried = np.random.default_rng(0), 0
    for seed in range(16):
        scene, other = start("lift" if seed % 2 else "place_left_of", seed)
        for _ in range(int(rng.integers(5, 20))):
            noise = np.append(rng.normal(0, 0.006, 3), 0)
            scene.step(expert_action(other, scene) + noise)
        if goal := draw_goal(scene, (task,), rng):
            tried += 1
            assert steps_to_success(scene, goal) is not None
    assert tried > 5


def test_expert_stacks_in_spite_of_a_centimetre_of_noise():
    """A learned policy is no better than that: a sucked cube must neither swing nor flip."""
    rng, stacked = np.random.default_rng(0), 0
    for seed in range(20):
        scene, goal = start("stack", seed)
        cubes = scene.cubes()
        for _ in range(60):
            scene.step(expert_action(goal, scene) + np.append(rng.normal(0, 0.01, 3), 0))
            if success(goal, scene, cubes):
                stacked += 1
                break
    assert stacked >= 18
