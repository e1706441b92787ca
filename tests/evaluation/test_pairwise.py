"""All pairs of candidates, the set that cannot be told from the best, and what people read of it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from vla_tune.evaluation import PairedComparison
from vla_tune.evaluation.paired import Candidate, Paired, Played
from vla_tune.evaluation.pairwise import compare_all
from vla_tune.evaluation.pairwise_report import pairwise_markdown, plot_pairwise, sentences
from vla_tune.evaluation.significance import cochran_mantel_haenszel
from vla_tune.evaluation.stats import stratified_interval, wilson_interval


def paired_of(outcomes: dict[str, list[str]], *, tasks: str = "", notes=()) -> Paired:
    """Name -> the successes of each run, a 1 for each; `tasks` has a letter for each start."""
    played = [
        Played(
            candidate=Candidate(name=name, runs=[Path(f"{name}{number}") for number in range(len(runs))]),
            success=np.array([[letter == "1" for letter in run] for run in runs]),
        )
        for name, runs in outcomes.items()
    ]
    names = list(tasks) or ["lift"] * played[0].success.shape[1]
    return Paired(played=played, tasks=np.array(names), shared=True, conditions=[{"seed": 1}], notes=notes)


def test_two_runs_are_newcombe_and_mcnemar():
    found = compare_all(paired_of({"a": ["1" * 9 + "0" * 3], "b": ["1" * 4 + "0" * 7 + "1"]}))
    (pair,) = found["pairs"]
    table = PairedComparison(both=4, only_first=5, only_second=1, neither=2)
    assert (pair["low"], pair["high"]) == table.interval()
    assert pair["p_value"] == pair["p_holm"] == table.p_value
    assert pair["pairs"] == {"both": 4, "only_first": 5, "only_second": 1, "neither": 2}
    assert (found["best"], found["not_told_from_best"], pair["cochran_mantel_haenszel"]) == ("a", ["a", "b"], None)
    assert list(sentences(found)) == ["Best: a; cannot be told from it: b."]


def test_several_tasks_are_tested_together_and_shown_each():
    outcomes = {"a": ["1110" + "1111"], "b": ["1000" + "1001"]}
    found = compare_all(paired_of(outcomes, tasks="xxxxyyyy"))
    (pair,) = found["pairs"]
    tasks = [
        PairedComparison(both=1, only_first=2, only_second=0, neither=1),
        PairedComparison(both=2, only_first=2, only_second=0, neither=0),
    ]
    assert [(part["task"], part["difference"]) for part in pair["tasks"]] == [("x", 0.5), ("y", 0.5)]
    assert pair["cochran_mantel_haenszel"]["p_value"] == cochran_mantel_haenszel(tasks).p_value
    text = pairwise_markdown(found)
    assert "| a - b | all | 87.5 | 37.5 | 4, 0 | +50.0 [" in text
    assert "|  | y | 100.0 | 50.0 | 2, 0 | +50.0 [" in text
    assert "a and b over tasks (Cochran-Mantel-Haenszel): p = " in text


def test_a_run_has_the_interval_of_its_own_table():
    outcomes = {"a": ["1111111111" + "1000000000"], "b": ["1111111110" + "0000000000"]}
    (a, b) = compare_all(paired_of(outcomes, tasks="x" * 10 + "y" * 10))["candidates"]
    assert (a["low"], a["high"]) == stratified_interval([(10, 10), (1, 10)]) != wilson_interval(11, 20)
    assert (b["low"], b["high"]) == stratified_interval([(9, 10), (0, 10)])
    (uneven, _) = compare_all(paired_of(outcomes, tasks="x" * 5 + "y" * 15))["candidates"]
    assert (uneven["low"], uneven["high"]) == wilson_interval(11, 20)


def test_training_seeds_are_compared_by_runs():
    found = compare_all(paired_of({"a": ["1111100000", "1111111100"], "b": ["1111000000", "1111110000"]}))
    (pair,) = found["pairs"]
    assert (pair["method"], pair["pairs"]) == ("training seeds", None)
    assert found["candidates"][0]["success_by_run"] == [0.5, 0.8]
    assert pair["low"] < 0 < pair["high"], "two seeds tell little"


def test_of_many_candidates_the_set_that_cannot_be_told_from_the_best_is_named(tmp_path: Path):
    outcomes = {
        "worst": ["0" * 90 + "1" * 10],
        "good": ["1" * 88 + "0" * 12],
        "best": ["1" * 90 + "0" * 10],
        "bad": ["1" * 50 + "0" * 50],
    }
    found = compare_all(paired_of(outcomes))
    assert (found["best"], found["not_told_from_best"]) == ("best", ["good", "best"])
    assert len(found["pairs"]) == 6
    assert all(pair["p_holm"] >= pair["p_value"] for pair in found["pairs"])
    assert found["candidates"][0]["p_against_best"] == found["pairs"][1]["p_holm"]
    text = pairwise_markdown(found)
    assert "| bad | yes | 1 | 100 | 50 | 50.0 [40.4, 59.6] | < 0.0001 |" in text
    assert "| best | best | 1 |" in text
    plot_pairwise(found, tmp_path / "plot.png", title="four")
    height, width, _ = imread(tmp_path / "plot.png").shape
    assert min(height, width) > 300


@pytest.mark.parametrize(("lost", "shown"), [(0, True), (6, False)])
def test_not_worse_by_more_than_a_margin(lost: int, shown: bool):
    live = "1" * 190 + "0" * 10
    merged = "0" * lost + "1" * (190 - lost) + "0" * 10
    found = compare_all(paired_of({"merged": [merged], "live": [live]}), margin=0.03)
    (claim,) = found["non_inferiority"]
    assert claim["shown"] is shown
    assert claim["low"] == found["pairs"][0]["low"]
    said = [line for line in sentences(found) if "not worse" in line]
    assert said[0].startswith(
        f"{'Shown' if shown else 'Not shown'}: merged is not worse than live by more than 3 points (the lower"
    )


@pytest.mark.parametrize("margin", [0.0, 3.0, -0.03])
def test_a_margin_is_a_fraction(margin: float):
    with pytest.raises(ValueError, match=r"a fraction above 0 and below 1, 0.03 for three points"):
        compare_all(paired_of({"a": ["10"], "b": ["10"]}), margin=margin)
