"""The command that compares: its folders, patterns and names, and what it writes."""

import json
from pathlib import Path

import pytest

from vla_tune.evaluation import EpisodeRecord, write_episodes
from vla_tune.run.compare import compare_runs


@pytest.fixture
def evaluated(tmp_path: Path):
    def make(name: str, outcomes: str, task: str = "lift") -> Path:
        about = {"suite": "s", "task": task}
        rest = {"instruction": "lift it", "steps": 3, "episode_return": 0.0, "outside_mass": None}
        records = [EpisodeRecord(**about, **rest, episode=i, seed=i, success=one == "1") for i, one in enumerate(outcomes)]
        policy = "merged" if name.endswith("merged") else "fine_tuned"
        key = {**about, "policy": policy, "identity": name, "episodes": len(records), "seed": 1}
        write_episodes(tmp_path / name / "evaluation" / f"{task}.parquet", records, key=key)
        return tmp_path / name

    return make


def test_two_runs_end_in_a_table_json_and_a_picture(evaluated, configuration, tmp_path: Path, capsys):
    live, merged = evaluated("live", "1" * 40), evaluated("live/merged", "1" * 39 + "0")
    found = compare_runs(configuration("compare", f"runs=[{merged},{live}]", "margin=0.2", f"to={tmp_path / 'out'}"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.json", "comparison.md", "comparison.png"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found
    said = capsys.readouterr().out
    assert "merged - live" in said
    assert "Best: live; cannot be told from it: merged." in said
    assert "Shown: merged is not worse than live by more than 20 points" in said


def test_a_pattern_or_a_list_is_one_method_over_training_seeds(evaluated, configuration, tmp_path: Path):
    runs = {name: [evaluated(f"tiny-{name}-seed_{seed}", "1100") for seed in (0, 1)] for name in ("r4", "r16")}
    listed = f"[{','.join(map(str, runs['r16']))}]"
    found = compare_runs(configuration("compare", f"runs=[{tmp_path}/*r4*,{listed}]", f"to={tmp_path / 'out'}"))
    assert [row["name"] for row in found["candidates"]] == ["tiny-r4", "tiny-r16"]
    assert [len(row["runs"]) for row in found["candidates"]] == [2, 2]
    named = configuration("compare", f"runs=[{tmp_path}/*r4*,{listed}]", "names=[four,sixteen]", f"to={tmp_path / 'out'}")
    assert compare_runs(named)["pairs"][0]["first"] == "four"


def test_some_of_the_evaluations_are_asked_for_by_words_of_the_command(evaluated, configuration, tmp_path: Path):
    runs = f"runs=[{evaluated('one', '10')},{evaluated('two', '11')}]"
    only = ["only.policy=fine_tuned", "only.tasks=[lift]", "only.suite=s", "only.seed=1"]
    assert compare_runs(configuration("compare", runs, *only, f"to={tmp_path / 'out'}"))["starts"] == 2
    with pytest.raises(ValueError, match="one keeps none of the evaluations that are asked for"):
        compare_runs(configuration("compare", runs, *only, "only.execution=OpenLoop"))


def test_tasks_that_are_numbers_are_words(evaluated, configuration, tmp_path: Path):
    runs = [evaluated(name, "10", task) for name in ("one", "two") for task in ("0", "3", "4")][::3]
    for tasks, starts in {"[0,4]": 4, "3": 2}.items():
        words = [f"runs=[{runs[0]},{runs[1]}]", f"only.tasks={tasks}", f"to={tmp_path / 'out'}"]
        assert compare_runs(configuration("compare", *words))["starts"] == starts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs=[one]"], "a comparison is between two or more"),
        (["runs=one"], "runs=one: name two or more"),
        (["runs=[one,no*thing]"], r"runs: no folder is called no\*thing"),
        (["runs=[one,two]", "names=[a]"], "2 entries of runs need as many names"),
        (["runs=[one,two]", "names=[a,a]"], "two candidates are called 'a'"),
        (["runs=[one,one]"], "each run once"),
    ],
)
def test_mistakes_are_refused(words, message, configuration):
    with pytest.raises(ValueError, match=message):
        compare_runs(configuration("compare", *words))
