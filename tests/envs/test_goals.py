from dataclasses import replace

import numpy as np
import pytest

from envs.experts import expert_action
from envs.goals import TASKS, Goal, distractor, draw_goal, feasible, fill, goals_of, sentence, success
from envs.scene import COLOURS, Scene


def arranged_scene(cubes: list[list[float]], tool: tuple[float, float, float] = (0.0, 0.18, 0.1)) -> Scene:
    scene = Scene()
    scene.place(np.array(cubes), np.zeros(3), np.array(tool), ("red", "green", "blue"))
    return scene


def test_unknown_task_names_the_choices():
    with pytest.raises(ValueError, match=r"'juggle': choose from push_left, .*place_left_of"):
        goals_of("juggle")


@pytest.mark.parametrize("task", TASKS)
def test_drawn_goals_are_feasible_and_not_reached(task: str):
    rng, scene, drawn = np.random.default_rng(0), Scene(), 0
    for _ in range(50):
        scene.scatter(rng)
        if goal := draw_goal(scene, (task,), rng):
            drawn += 1
            assert goal.task == task
            assert feasible(goal, scene)
            assert not success(goal, scene, scene.cubes())
    assert drawn > 25


def test_draw_goal_reaches_every_task():
    rng, scene = np.random.default_rng(0), Scene()
    scene.place(np.array([[-0.12, 0.1], [0.12, 0.1], [0, -0.1]]), np.zeros(3), np.array([0, 0, 0.1]), tuple(COLOURS)[:3])
    goals = [draw_goal(scene, TASKS, rng) for _ in range(200)]
    assert {goal.task for goal in goals if goal} == set(TASKS)


def test_nothing_to_ask_for_is_none():
    scene = arranged_scene([[-0.045, 0], [0, 0], [0.045, 0]])
    assert draw_goal(scene, ("push_left", "push_right"), np.random.default_rng(0)) is None


@pytest.mark.parametrize("task", TASKS)
def test_sentence_names_the_blocks_and_the_distractor_another(task: str):
    rng, colours = np.random.default_rng(0), ("red", "green", "blue")
    for goal in goals_of(task):
        words = sentence(goal, colours, rng).split()
        assert colours[goal.target] in words
        assert sum(colour in words for colour in colours) == (1 if goal.reference is None else 2)
        other = distractor(goal, rng)
        assert other.task == task
        assert other.target not in (goal.target, goal.reference)
        assert other.reference == goal.reference
    assert fill("stack the {c} block on the {o} block", Goal("stack", 2, 0), colours) == "stack the blue block on the red block"


@pytest.mark.parametrize("task", TASKS)
def test_the_wrong_cube_is_no_success(task: str):
    rng, scene, finished = np.random.default_rng(5), Scene(), 0
    for _ in range(12):
        scene.scatter(rng)
        if not (goal := draw_goal(scene, (task,), rng)):
            continue
        wrong = distractor(goal, rng)
        if not feasible(wrong, scene):
            continue
        start = scene.cubes()
        for _ in range(60):
            scene.step(expert_action(wrong, scene))
            assert not success(goal, scene, start)
            if success(wrong, scene, start):
                finished += 1
                break
    assert finished >= 3


def test_blocked_ways_and_taken_spots_are_infeasible():
    in_a_row = arranged_scene([[-0.1, 0], [0, 0], [0.1, 0.1]])
    assert not feasible(Goal("push_left", 1), in_a_row)
    assert feasible(Goal("push_forward", 1), in_a_row)
    taken = arranged_scene([[-0.08, 0.03], [0, 0], [0.1, 0.1]])
    assert not feasible(Goal("place_left_of", 2, 1), taken)
    assert feasible(Goal("stack", 2, 1), taken)
    assert not feasible(Goal("place_left_of", 0, 1), taken), "it is there already"
    assert not feasible(Goal("push_left", 0), arranged_scene([[-0.14, 0], [0.1, 0.1], [0.1, -0.1]]))


def test_success_needs_release_and_rest():
    goal, scene = Goal("stack", 0, 1), arranged_scene([[-0.1, 0], [0, 0], [0.1, 0.1]])
    start = scene.cubes()
    for _ in range(60):
        scene.step(expert_action(goal, scene))
        if success(goal, scene, start):
            break
        assert scene.suction or scene.held() is None
    assert not scene.suction
    assert not success(replace(goal, target=2), scene, start)
    for _ in range(10):
        scene.step(np.array([0, 0, 0.03, 0]))
    assert success(goal, scene, start), "it stays there without the tool"
    assert not feasible(goal, scene)
    assert not feasible(Goal("touch", 1), scene), "covered"
