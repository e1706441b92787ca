"""What does not fit is told in a line before the first step, by asking the environment once."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from vla_tune.data import build_pipeline
from vla_tune.data.sources import Data
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.run.base import why_not_tried
from vla_tune.run.following import Nothing, following_of
from vla_tune.run.simulation import Simulation, asked, remembered


class World(gymnasium.Env):
    """A robot's environment, whose parts can be made wrong."""

    closed = 0

    def __init__(self, task="lift", actions=4, camera="front", state=4, size=64, rate=None):
        if task not in ("lift", "touch"):
            raise KeyError(task)
        self.metadata = {} if rate is None else {"control_hz": rate}
        self.action_space = spaces.Box(-1, 1, (actions,), np.float32)
        self.shown = {
            "images": {camera: np.zeros((size, size, 3), np.uint8)},
            "state": np.zeros(state, np.float32),
            "instruction": "lift it",
        }

    def reset(self, *, seed=None, options=None):
        return self.shown, {"success": False}

    def close(self):
        World.closed += 1


DATA = object.__new__(Data)  # is not looked at
gymnasium.register("World-v0", entry_point=World)


@pytest.fixture
def pipeline(tiny_contract, tiny_tokenizer):
    return build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))


@pytest.fixture
def of(configuration, base):
    def make(*overrides, **environment):
        options = [f"+env.make.{key}={value}" for key, value in environment.items()]
        return configuration("train", f"model.folder={base}", "env.suite=mine", "env.make.id=World-v0", *options, *overrides)

    return make


@pytest.mark.parametrize(
    ("environment", "task", "message"),
    [
        ({"actions": 6}, "lift", r"takes actions \(6,\), 'tabletop' has 4 dimensions"),
        ({"camera": "wrist"}, "lift", r"shows cameras \['wrist'\], 'tabletop' needs 'front' too"),
        ({"state": 7}, "lift", r"state of shape \[7\], 'tabletop' has 4"),
        ({"rate": 20}, "lift", "acts at 20 Hz, 'tabletop' at 10 Hz"),
        ({"size": 32}, "lift", "32"),
        ({}, "fly", "KeyError: 'fly'"),
        ({"nonsense": 1}, "lift", "TypeError"),
    ],
)
def test_what_does_not_fit_is_one_line(of, pipeline, tiny_contract, environment, task, message):
    before = World.closed
    with pytest.raises(ValueError, match=message) as caught:
        asked(of(**environment), task, tiny_contract.embodiment, pipeline)
    assert "evaluation=held_out" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert World.closed - before == (task == "lift" and "nonsense" not in environment), "what was made is closed"


def test_what_fits_is_asked_once_for_each_task(of, pipeline, tiny_contract, capsys):
    before = World.closed
    cfg = of("evaluation.remembered=[lift,touch]", rate=10)
    Simulation().before(cfg, DATA, tiny_contract, pipeline)
    assert World.closed - before == 2
    assert "A wrong instruction is not tried" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"environment of task=fly: KeyError"):
        Simulation().before(of("evaluation.remembered=[fly]"), DATA, tiny_contract, pipeline)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.episodes=0", "evaluation.episodes=0 must be"),
        ("evaluation.rows=0", "evaluation.rows=0 must be"),
        ("evaluation.probed=0", "evaluation.probed=0 must be"),
        ("evaluation.max_steps=0", "evaluation.max_steps=0 must be"),
        ("~env", "evaluation=simulation has no environment"),
    ],
)
def test_numbers_are_looked_at_before(of, configuration, base, pipeline, tiny_contract, override, message):
    cfg = configuration("train", f"model.folder={base}", override) if override == "~env" else of(override)
    with pytest.raises(ValueError, match=message):
        Simulation().before(cfg, DATA, tiny_contract, pipeline)


def test_the_tasks_of_a_base_come_from_its_manifest(configuration, tiny_contract):
    cfg, body = configuration("train", "task=touch"), tiny_contract.embodiment
    assert remembered(cfg, body) == ["push_left", "push_right", "push_forward"]
    assert remembered(configuration("train", "evaluation.remembered=[lift,stack]"), body) == ["stack"]
    assert remembered(configuration("train", "env.suite=mine"), body) == []


def test_a_base_of_another_robot_is_not_tried(tmp_path, base, tiny_contract):
    body = tiny_contract.embodiment
    another_robot = replace(body, name="six", action=(replace(body.action[0], dimension=5), body.action[1]))
    assert why_not_tried(base, body) is None
    assert "never acted" in str(why_not_tried(tmp_path / "nowhere", body))
    said = str(why_not_tried(base, another_robot))
    assert "on which it acts ('tabletop') has another action than this one ('six')" in said


def test_an_option_is_chosen(configuration):
    assert isinstance(following_of(configuration("train")), Simulation)
    assert isinstance(following_of(configuration("train", "evaluation=none")), Nothing)
    for name, message in (("settings", "choose evaluation=simulation"), ("as_trained", "is for scripts/eval.py")):
        with pytest.raises(ValueError, match=message):
            following_of(configuration("train", f"evaluation={name}"))
