"""An environment of another shape is shown as the robot's data are, and every wrong key is named beside what is there."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from vla_tune.check.replay import replay
from vla_tune.data import build_pipeline
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.environment import AtTheEnd, Once, observation_in
from vla_tune.evaluation import in_processes, rollout
from vla_tune.evaluation.environments import in_turn
from vla_tune.evaluation.stage import Rules
from vla_tune.execution import OpenLoop
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.record import STILL, Storage, record_demonstrations
from vla_tune.workers.code import code_of

T = "vla_tune.translation."
LEFT, RIGHT = (-0.05, 0, 0, 1.0), (0.05, 0, 0, 1.0)


def test_it_shows_what_the_robot_sees(make_of, crane):
    env = make_of()(task="right")
    shown, info = env.reset(seed=3)
    seen = observation_in(shown, crane)
    inner = env.unwrapped
    raw = inner.look()["cameras"]["top"]["rgb"]
    assert (seen.images["front"] == raw[::-1]).all()
    assert not (seen.images["front"] == raw).all()
    home = inner.homes[3 % 5]
    np.testing.assert_allclose(seen.state, [home, 0, 0, home], atol=1e-6)
    assert (seen.instruction, info["success"], inner.count, inner.still) == (
        "put it to the right",
        False,
        2,
        5,
    )  # 2 steps each time, and one when it was made
    assert env.metadata["control_hz"] == 10
    assert env.observation_space["images"]["front"].shape == (64, 64, 3)


def test_an_action_leaves_in_the_environments_units_and_convention(make_of):
    env = make_of()(task="left")
    env.reset(seed=0)
    env.step(np.array([0.03, 9.0, 9.0, 0.8], np.float32))
    assert (round(env.unwrapped.at, 6), env.unwrapped.grip) == (-0.57, 1.0)
    env.step(np.array([-1.0, 0, 0, 0.2], np.float32))  # 100 cm, of which 5 are allowed
    assert (round(env.unwrapped.at, 6), env.unwrapped.grip) == (-0.62, -1.0)


@pytest.mark.parametrize("seed", [0, 4, 5, 12])
def test_stored_starts_are_chosen_by_the_seed_alone(make_of, seed):
    env = make_of()(task="left")
    assert env.reset(seed=seed)[0]["state"][0] == pytest.approx(np.linspace(-0.6, 0.6, 5)[seed % 5])


def test_how_many_starts_are_stored_is_told(make_of):
    assert make_of()(task="left").metadata["starts"] == 5
    assert "starts" not in make_of(starts=None)(task="left").metadata


def test_an_evaluation_begins_once_in_each_stored_state(make_of, crane, chaotic):
    env, homes = make_of()(task="left"), np.linspace(-0.6, 0.6, 5)
    begun = [env.reset(seed=7, options={"episode": number})[0]["state"][0] for number in range(7)]
    np.testing.assert_allclose(begun, [*homes, *homes[:2]], atol=1e-6)
    seen: dict[int, float] = {}
    watcher = Begins(seen)
    rollout(chaotic, partial(make_of(), task="left"), episodes=7, embodiment=crane, num_envs=3, watcher=watcher, **CELL)
    np.testing.assert_allclose([seen[number] for number in range(7)], begun)


class Begins:
    def __init__(self, seen):
        self.seen = seen

    def looks(self, episode):
        return True

    def see(self, episode, observation):
        self.seen.setdefault(episode, observation.state[0])

    def finish(self, record):
        pass


def played(env, action, *, steps, seed=0):
    env.reset(seed=seed)
    number, terminated, truncated, info = 0, False, False, {}
    while number < steps and not (terminated or truncated):
        *_, terminated, truncated, info = env.step(np.array(action, np.float32))
        number += 1
    return number, terminated, truncated, info["success"]


def test_an_episode_has_the_horizon_and_success_is_told_where_it_is(make_of):
    env = make_of()(task="left")  # its own limit of 3 steps does not count, nor do the steps in which it settles
    assert played(env, LEFT, steps=1) == (1, False, False, True)
    assert played(env, RIGHT, steps=30) == (25, False, True, False)


@pytest.mark.parametrize(
    ("success", "told"),
    [
        ({"_target_": T + "RewardAtLeast", "threshold": 1.0}, True),
        ({"_target_": T + "Terminated"}, False),
        (
            {
                "_target_": T + "Changed",
                "of": {"_target_": T + "FromInfo", "key": "goal.distance"},
                "function": {"_target_": "operator.gt", "_partial_": True, "_args_": [0.1]},
            },
            True,
        ),
    ],
)
def test_success_is_what_the_configuration_says(make_of, success, told):
    assert played(make_of(success=success)(task="left"), LEFT, steps=1)[-1] is told


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ({"_target_": T + "FromAttribute", "path": "wishes.__len__"}, None),
        ({"_target_": T + "FromCall", "path": "sentence", "arguments": {"loud": True}}, "PUT IT TO THE LEFT"),
        ({"_target_": T + "Sentences", "of": {"left": "to the left", "right": "to the right"}}, "to the left"),
    ],
)
def test_a_sentence_comes_from_where_it_is_said(make_of, instruction, said):
    if said is None:
        with pytest.raises(ValueError, match=r"env.make.instruction: .*'__len__', which is Python's own"):
            make_of(instruction=instruction)(task="left")
    else:
        assert make_of(instruction=instruction)(task="left").reset(seed=0)[0]["instruction"] == said


def test_another_sentence_is_told_as_the_wrong_one(make_of):
    other = {"_target_": T + "Sentences", "of": {"left": "put it to the right"}}
    _, info = make_of(distractor=other)(task="left").reset(seed=0)
    assert info["distractor_instruction"] == "put it to the right"


def test_what_only_renders_is_seen(make_of):
    drawn = make_of(cameras__front={"_target_": T + "Rendered"}, environment__arguments__render_mode="rgb_array")(task="left")
    assert drawn.reset(seed=1)[0]["images"]["front"]().shape == (64, 64, 3)


def test_what_nobody_looks_at_is_not_drawn(make_of):
    env = make_of(cameras__front={"_target_": T + "Rendered"}, environment__arguments__render_mode="rgb_array")(task="left")
    draw, drawn = env.unwrapped.render, []
    env.unwrapped.render = lambda: (drawn.append(1), draw())[1]
    shown = [env.reset(seed=1)[0], *(env.step(np.array(LEFT, np.float32))[0] for _ in range(2))]
    assert not drawn
    assert (shown[-1]["images"]["front"]() == draw()).all()
    assert len(drawn) == 1
    with pytest.raises(RuntimeError, match="'front' was not drawn before the next step"):
        shown[0]["images"]["front"]()


def test_states_are_read_from_a_file(make_of, tmp_path):
    (tmp_path / "states.json").write_text('{"left": [0.1, 0.2]}')
    states = {"_target_": T + "StatesInFile", "file": str(tmp_path / "states.json"), "key": "left"}
    assert make_of(starts__states=states)(task="left").reset(seed=7)[0]["state"][0] == pytest.approx(0.2)


def shown(key, **more):
    return {"_target_": T + "FromObservation", "key": key, **more}


WRONG = {
    "a camera": ({"cameras__front__key": "cameras.top.rbg"}, r"cameras.front: .* has no 'rbg'; it has rgb"),
    "a group": (
        {"cameras__front__key": "camera.top"},
        r".*'camera.top'; it has cameras.top.rgb, crane.pose, crane.quat",
    ),
    "no picture": ({"cameras__front": shown("crane.pose")}, r"cameras.front: .*'front' is float64 \[3\]"),
    "nothing drawn": ({"cameras__front": {"_target_": T + "Rendered"}}, "draws nothing: make it with render_mode: rgb_array"),
    "a state": ({"state": [shown("crane.position")]}, r"state.0: .*crane has no 'position'; it has pose, quat"),
    "no number": ({"state": [shown("crane.pose"), shown("crane")]}, "state.1: .* a state is a row of numbers"),
    "a place": ({"state": [shown("crane.pose", at=[3])]}, r"state.0: .*'crane.pose' has 3 numbers, at=\[3\] asks for number 3"),
    "a slice": ({"state": [shown("crane.pose", at="1:5")]}, r"has 3 numbers, at=1:5 asks for number 3"),
    "no slice": ({"state": [shown("crane.pose", at="1-2")]}, r"'1-2' is no slice; say begin:end"),
    "an info": ({"instruction": {"_target_": T + "FromInfo", "key": "wish"}}, r"instruction: info has no 'wish'; it has hint"),
    "an attribute": (
        {"instruction": {"_target_": T + "FromAttribute", "path": "wish"}},
        r"instruction: the environment has no 'wish' \(wish\); it has .*wishes",
    ),
    "no sentence": (
        {"instruction": {"_target_": T + "FromAttribute", "path": "wishes"}},
        "is dict, not a sentence",
    ),
    "no method": ({"instruction": {"_target_": T + "FromCall", "path": "place"}}, "'place' is str, no method"),
    "no sentence of the task": ({"instruction": {"_target_": T + "Sentences", "of": {"up": "x"}}}, "has no 'left'; it has up"),
    "a distractor": ({"distractor": {"_target_": T + "FromInfo", "key": "other"}}, r"distractor: info has no 'other'; it has hint"),
    "a success": (
        {"success": {"_target_": T + "FromInfo", "key": "won"}},
        "info has no 'won'; it has count, goal.distance",
    ),
    "no success": ({"success": {"_target_": T + "FromInfo", "key": "count"}}, "which is 3: it must be True or False"),
    "a task": ({"tasks__of": {"up": {}}}, "tasks: of the environment's tasks has no 'left'; it has up"),
    "a limit of its own": ({"environment__arguments__max_episode_steps": 9}, "max_episode_steps is no argument here; say horizon"),
    "a horizon": ({"horizon": 0}, "horizon=0"),
    "an idle number": ({"action__parts": [{"_target_": T + "Numbers", "of": "0:3"}]}, r"the robot's numbers \[3\] of 4"),
    "a missing number": ({"action__parts": [{"_target_": T + "Numbers", "of": [4]}]}, r"has 4 numbers, at=\[4\] asks for number 4"),
    "a scale": ({"action__parts__0__scale": [1.0, 2.0]}, "scale has 2 numbers for 1 of the robot's action"),
    "a gripper": (
        {"action__parts__2__robot": {"engaged": 1.0, "open": 0.0}},
        "robot=.*say two numbers that differ",
    ),
    "ends that are one": ({"action__parts__2__environment": {"engaged": 1.0, "released": 1.0}}, "environment=.*that differ"),
    "a still action": ({"settle__action": [0.0]}, r"settle.action has 1 numbers, the environment takes \[3\]"),
    "no step": ({"settle__steps": 0}, "settle.steps=0: at least 1"),
    "a setter": ({"starts__set": "set_state"}, r"starts: the environment has no 'set_state' .*set_home"),
    "no states": ({"starts__states__path": "grip"}, "starts: .* holds no states"),
    "no file": (
        {"starts__states": {"_target_": T + "StatesInFile", "file": "/nowhere.json"}},
        "there is no file /nowhere.json",
    ),
    "a method as a picture": (
        {"cameras__front": {"_target_": T + "FromAttribute", "path": "look"}},
        "'look' is a method: FromCall calls it",
    ),
    "a seed": ({"seed": {"_target_": T + "SeedCall", "path": "seeded"}}, "seed: the environment has no 'seeded'"),
    "no quaternion": (
        {"state": [shown("crane.pose", function={"_target_": T + "RotationVector", "order": "xyzw"})]},
        "state.0: .*is no quaternion",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_there_is_named_before_the_first_episode(make_of, name):
    changed, message = WRONG[name]
    with pytest.raises(Exception, match=message) as caught:
        make_of(**changed)(task="left")
    assert "ValueError" in repr(caught.value) or isinstance(caught.value, ValueError)


@pytest.mark.parametrize("key", ["horizon", "success", "instruction", "action", "cameras", "control_hz", "state", "tasks"])
def test_a_missing_key_is_named(make_without, key):
    with pytest.raises(ValueError, match=rf"env.make has no {key}; it takes environment, tasks, cameras"):
        make_without(key)(task="left")


def test_a_misspelt_key_is_named(make_without):
    with pytest.raises(ValueError, match=r"env\.make has no horizon and has horizen, which it does not take"):
        make_without("horizon", horizen=9)(task="left")


def test_an_episode_that_ends_while_it_settles_is_one_line_that_names_the_task(make_of):
    env = make_of()(task="left")
    crane = env.unwrapped
    step = crane.step
    crane.step = lambda action: (*step(action)[:2], True, False, {})
    with pytest.raises(ValueError, match=r"settle: the environment of task=left ended the episode at step 1 of rest") as caught:
        env.reset(seed=1)
    assert "\n" not in str(caught.value)


def test_a_goal_that_is_reached_while_things_settle_is_told_at_the_first_action(make_of):
    env = make_of()(task="left")
    crane = env.unwrapped
    step = crane.step
    crane.step = lambda action: (*step(action)[:2], True, False, {"done_well": True})
    _, info = env.reset(seed=1)
    assert info["success"] is False
    assert env.step(np.zeros(4, np.float32))[4]["success"] is True


def test_a_set_state_must_be_shown(make_of):
    with pytest.raises(ValueError, match="starts: setting a state shows nothing: name the method that does"):
        make_of(settle=None)(task="left")
    env = make_of(settle=None, starts__observe="look")(task="left")
    assert env.reset(seed=1)[0]["state"][0] == pytest.approx(-0.3)


def test_an_action_beyond_the_space_may_be_refused(make_of):
    env = make_of(action__beyond={"_target_": T + "Refuse"})(task="left")
    env.reset(seed=0)
    env.step(np.array([0.05, 0, 0, 1], np.float32))
    with pytest.raises(ValueError, match="action: number 0 of the environment's action is 10, it takes -5 to 5"):
        env.step(np.array([-0.1, 0, 0, 1], np.float32))


def test_a_success_under_another_name_is_refused(make_of):
    env = make_of(success__key="success")(task="left")
    env.unwrapped.wishes["left"] = "x"
    step = env.unwrapped.step
    env.unwrapped.step = lambda action: (*step(action)[:4], {"is_success": False})
    with pytest.raises(ValueError, match="info has no 'success', but tells is_success"):
        played(env, LEFT, steps=1)


CELL = {"suite": "crane", "task": "left", "seed": 3, "execution": OpenLoop()}


def test_tables_are_the_same_at_every_number_of_environments(make_of, crane, chaotic):
    make = partial(make_of(), task="left")
    play = partial(rollout, chaotic, make, episodes=13, embodiment=crane, **CELL)
    tables = [play(num_envs=number) for number in (1, 3, 7)]
    assert all(one == other for one, other in pairwise(tables))
    assert {record.success for record in tables[0]} == {True, False}
    assert {record.steps for record in tables[0]} == {25}
    last = play(num_envs=3, rules=Rules(success=AtTheEnd()))
    assert sum(record.success for record in last) < sum(record.success for record in tables[0])
    assert tables[0] == play(num_envs=2, rules=Rules(success=Once()))


@pytest.mark.ci  # processes of their own
def test_processes_lead_to_the_same_tables(make_of, crane, chaotic):
    make = partial(make_of(), task="right")
    play = partial(rollout, chaotic, make, episodes=7, embodiment=crane, **CELL | {"task": "right"})
    solo = play(num_envs=1, vectorize=in_turn)
    assert [play(num_envs=number, vectorize=in_processes) for number in (1, 3)] == [solo, solo]


def test_a_model_acts_there(make_of, crane, tiny_model, tiny_head, tiny_tokenizer, tiny_contract):
    contract = replace(tiny_contract, embodiment=crane)
    pipeline = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))
    policy = LocalPolicy(tiny_head.over(tiny_model), pipeline, contract, pad_id=512, rows=7)
    make = partial(make_of(horizon=4), task="left")
    tables = [rollout(policy, make, episodes=7, embodiment=crane, num_envs=number, **CELL) for number in (1, 3, 7)]
    assert tables[0] == tables[1] == tables[2]


def test_another_rate_is_refused(make_of, crane, chaotic):
    make = partial(make_of(control_hz=20.0), task="left")
    with pytest.raises(ValueError, match="the environment acts at 20 Hz, 'crane' at 10 Hz"):
        rollout(chaotic, make, episodes=1, embodiment=crane, num_envs=1, **CELL)


def test_edited_functions_of_the_users_own_are_other_code(make_of):
    own = make_of(state=[shown("crane.pose", function={"_target_": "functions_of_tests.halved", "_partial_": True})])
    assert code_of(partial(own, task="left"))["sources"] != code_of(partial(make_of(), task="left"))["sources"]


def test_what_was_recorded_there_succeeds_again(make_of, crane, tmp_path):
    """By another translation, what was recorded is another thing."""

    def expert(env):
        return np.array([np.clip(-0.7 - env.unwrapped.at, -0.05, 0.05), 0, 0, 1], np.float32)

    make, other = (partial(made, task="left") for made in (make_of(), make_of(action__parts__0__scale=-50.0)))
    record = partial(record_demonstrations, tmp_path / "data", expert=expert, embodiment=crane, episodes=2, seed=0)
    record = partial(record, noise=STILL, storage=Storage("image"))
    record(make_env=make)
    with pytest.raises(ValueError, match="recorded by another recipe"):
        record(make_env=other)
    data = Demonstrations(tmp_path / "data", embodiment=crane, chunks=ChunksByTimestamp(1))
    began = data.frames.state[data.first_frames, 0]
    assert not np.isclose(began[:, None], np.linspace(-0.6, 0.6, 5), atol=1e-6).any(), "stored starts are kept for trials"
    assert replay(data, lambda _: make(), count=2).passed
    assert not replay(data, lambda _: other(), count=2).passed
