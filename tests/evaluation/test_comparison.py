"""Runs side by side: pooled rates, medians of costs, and no number where there is none."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from vla_tune.evaluation.comparison import base_rows, compared, comparison_markdown, plot_comparison
from vla_tune.evaluation.stats import wilson_interval
from vla_tune.evaluation.training_seeds import interval_of_rates


def row(policy: str, task: str, successes: int) -> dict[str, Any]:
    return {"policy": policy, "task": task, "successes": successes, "episodes": 50, "success_rate": successes / 50}


def results(successes: int, *, held_out: float = 1.5, kept: int = 30) -> dict[str, Any]:
    return {
        "evaluation": [
            row("base", "lift", 0),
            row("fine_tuned", "lift", successes),
            row("wrong_instruction", "lift", 1),
            row("base", "touch", 50),
            row("fine_tuned", "touch", kept),
            row("base", "push", 40),
            row("fine_tuned", "push", 40),
        ],
        "training": {
            "trainable_parameters": 250,
            "peak_memory_bytes": 2_000_000_000 + successes,
            "samples_per_cpu_second": 100.0 + successes,
            "validation": {"validation/loss": held_out},
            "training_loss": 1.0,
        },
        "costs": {
            "base_parameters": 1000,
            "adapter_bytes": 1_500_000,
            "not_mergeable": None,
            "milliseconds": {"base": 10.0, "live": 20.0, "merged": 10.5},
        },
    }


def test_seeds_are_one_row():
    (found,) = compared({"lora_r4": [results(40), results(45), results(50, held_out=2.0)]})
    assert found["success_rate"] == 135 / 150
    assert (found["low"], found["high"]) == (interval_of_rates([40, 45, 50], [50] * 3))
    assert found["low"] < wilson_interval(135, 150)[0], "seeds that differ by 20 points are less sure than 150 episodes"
    assert found["success_by_seed"] == [0.8, 0.9, 1.0]
    assert found["trainable_share"] == 0.25
    assert found["peak_memory_bytes"] == 2_000_000_045, "the median"
    assert found["generalisation_gap"] == 0.5, "the median"
    assert found["forgotten"] == pytest.approx((40 + 0) / 2), "of the two tasks that the base could do, in percentage points"
    line = comparison_markdown([found], choice="adapter").splitlines()[2]
    cells = ["lora_r4", "250 (25.00 %)", "1.50", "2.00", "145", "+0.500", "80, 90, 100", "**90.0** [65.2, 100.0]", "20.0"]
    assert line == f"| {' | '.join([*cells, '10.0, 20.0, 10.5', 'yes'])} |"


def test_the_base_is_a_row_of_its_own():
    (found,) = base_rows(results(40))
    line = comparison_markdown([found], choice="adapter").splitlines()[2]
    assert line == "| base | 0 (0.00 %) | 0.00 | - | - | - | 0 | **0.0** [0.0, 7.1] | - | 10.0, -, - | - |"
    bare = results(40)
    bare["evaluation"] = bare["evaluation"][1:2]
    assert base_rows(bare) == []


def test_what_was_not_measured_is_a_dash():
    bare = results(40)
    bare["evaluation"] = bare["evaluation"][1:2]
    bare["training"]["validation"] = {}
    bare["costs"] |= {"milliseconds": {"base": 10.0, "live": 20.0}, "not_mergeable": "it is not linear"}
    (found,) = compared({"bottleneck": [bare]})
    line = comparison_markdown([found], choice="adapter").splitlines()[2]
    assert line.endswith("| - | 80 | **80.0** [67.0, 88.8] | - | 10.0, 20.0, - | no |")


def test_a_run_without_costs_is_named():
    old = deepcopy(results(40)) | {"costs": {}}
    with pytest.raises(ValueError, match="a run of full was finished before costs were measured: remove its folder"):
        compared({"lora": [results(1)], "full": [results(1), old]})


def test_the_picture_is_written(tmp_path: Path):
    rows = compared({f"lora_r{rank}": [results(40 + rank), results(40)] for rank in (1, 2, 4, 8)})
    plot_comparison(rows, tmp_path / "plot.png", choice="adapter", title="ranks")
    height, width, _ = imread(tmp_path / "plot.png").shape
    assert min(height, width) > 500
