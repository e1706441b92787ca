"""What does not fit is told in a line before the first step, by asking the environment once."""

from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from vla_tune.data import build_pipeline
from vla_tune.data.sources import Data
from vla_tune.evaluation import EpisodeRecord, read_episodes, success_row
from vla_tune.evaluation.kept import CELLS
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.run import simulation
from vla_tune.run.base import why_not_tried
from vla_tune.run.following import Nothing, Run, following_of
from vla_tune.run.objects import Trained
from vla_tune.run.simulation import Simulation, asked, remembered


class World(gymnasium.Env):
    """A robot's environment, whose parts can be made wrong."""

    closed = 0

    def __init__(self, task="lift", actions=4, camera="front", state=4, size=64, rate=None, **about):
        if task not in ("lift", "touch"):
            raise KeyError(task)
        if about.keys() - {"starts", "tasks"}:
            raise TypeError(about)
        self.metadata = about if rate is None else {"control_hz": rate}
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
def records_of():
    def made(outcomes):
        words = {"suite": "mine", "task": "any", "seed": 0, "instruction": "do it", "steps": 1, "episode_return": 0.0}
        return [EpisodeRecord(episode=place, success=won, outside_mass=None, **words) for place, won in enumerate(outcomes)]

    return made


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


def test_of_an_environment_that_lists_its_tasks_the_first_answers(of, pipeline, tiny_contract):
    before, nothing = World.closed, "evaluation.remembered=[]"
    Simulation().before(of("task=all", "+env.tasks=[lift,touch]", nothing), DATA, tiny_contract, pipeline)
    assert World.closed - before == 1
    Simulation().before(of("task=[lift,touch]", nothing), DATA, tiny_contract, pipeline)
    assert World.closed - before == 3
    with pytest.raises(ValueError, match=r"task=fly is none of the environment's \(env.tasks\): lift, touch"):
        Simulation().before(of("task=[lift,fly]", "+env.tasks=[lift,touch]"), DATA, tiny_contract, pipeline)


def test_what_an_environment_has_not_is_refused_before_a_run(of, pipeline, tiny_contract):
    """A start that is played again is no other episode; a suite may have fewer tasks than its option lists."""
    ask = partial(asked, task="lift", body=tiny_contract.embodiment, pipeline=pipeline)
    few = r"evaluation.{}=10: task=lift has 9 stored starts, .*: say evaluation.{}=9, or fewer"
    for name, words in {
        "episodes": ["evaluation.episodes=10"],
        "ablated": ["evaluation.episodes=9", "evaluation.ablated=10"],
    }.items():
        with pytest.raises(ValueError, match=few.format(name, name)):
            ask(of(*words, starts=9))
    ask(of("evaluation.episodes=9", starts=9))
    ask(of(starts="null"))
    with pytest.raises(ValueError, match=r"task=touch: mine has 1 tasks, say task=\[lift\]"):
        ask(of("task=all", "+env.tasks=[lift,touch]", tasks="[lift]"))


def test_a_policy_is_tried_task_by_task_and_the_mean_counts(
    of, pipeline, tiny_contract, tiny_head, tiny_model, tmp_path, monkeypatch, records_of
):
    asked_for = []

    def played(cfg, trained, *, policy, task, folder, venue=None, look=None, films=False, ablation=None):
        asked_for.append((policy, task, films, type(ablation).__name__))
        if look is not None:
            venue.make_env().close()
        return success_row(policy=policy, task=task, records=records_of([task == "lift"] * (4 if ablation is None else 2)))

    monkeypatch.setattr(simulation, "evaluate", played)
    ablations = "ablation=[wrong_instruction,blank_pictures]"
    words = ["task=[lift,touch]", ablations, "evaluation.remembered=[push]", "evaluation.filmed=1"]
    run = Run(of(*words), tmp_path, lambda: DATA)
    trained = Trained(LocalPolicy(tiny_head.over(tiny_model), pipeline, tiny_contract, pad_id=512), ())
    before = World.closed
    rows = Simulation().of_trained(run, trained)
    assert asked_for == [
        ("fine_tuned", "lift", True, "NoneType"),
        ("blank_pictures", "lift", False, "Blank"),
        ("fine_tuned", "touch", False, "NoneType"),
        ("blank_pictures", "touch", False, "Blank"),
        ("fine_tuned", "push", False, "NoneType"),
    ], "no wrong instruction is told there"
    assert World.closed - before == 2, "one of each task was made"
    assert [(row["policy"], row["episodes"]) for row in rows if "tasks" in row] == [("fine_tuned", 8), ("blank_pictures", 4)]
    assert Simulation().number({"evaluation": Simulation().in_order(rows)}) == 0.5


@pytest.mark.slow  # processes of their own
def test_cells_are_the_same_wherever_tasks_are_played(
    configuration, base, pipeline, tiny_contract, tiny_head, tiny_model, tmp_path, capsys
):
    trained = Trained(LocalPolicy(tiny_head.over(tiny_model), pipeline, tiny_contract, pad_id=512, rows=1), ())
    words = ["task=[lift,touch,push_left]", "ablation=[wrong_instruction,blank_pictures]", "+env.make.cameras.front=[64,64]"]
    numbers = {"episodes": 3, "ablated": 2, "max_steps": 6, "num_envs": 2, "rows": 1, "films": [0], "filmed": 2}
    words += [f"evaluation.{name}={value}" for name, value in numbers.items()]

    def tried(environments, folder):
        cfg = configuration("train", f"model.folder={base}", *words, f"environments={environments}")
        return Simulation().of_policy(Run(cfg, tmp_path / folder, lambda: DATA), trained, name="mine")

    def kept(folder):
        films = sorted(path.name for path in (tmp_path / folder / "films").iterdir())
        return films, {path.name: read_episodes(path) for path in (tmp_path / folder / CELLS).iterdir()}

    rows = tried("in_turn", "here")
    assert tried("in_processes", "there") == rows
    assert kept("there") == kept("here")
    assert (len(kept("here")[0]), len(kept("here")[1])) == (2, 9)
    capsys.readouterr()
    assert tried("in_processes", "here") == rows
    assert capsys.readouterr().err.count("read from") == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.episodes=0", "evaluation.episodes=0 must be"),
        ("evaluation.rows=0", "evaluation.rows=0 must be"),
        ("evaluation.probed=0", "evaluation.probed=0 must be"),
        ("evaluation.max_steps=0", "evaluation.max_steps=0 must be"),
        ("evaluation.ablated=0", "evaluation.ablated=0 must be"),
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
    assert remembered(configuration("train", "evaluation.remembered=[lift,3]"), body) == ["3"], "a task is a word"
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
