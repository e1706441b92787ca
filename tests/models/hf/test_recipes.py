"""Recipes over a model of transformers, from demonstrations to results."""

import json
from pathlib import Path

import pytest

from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.objects import build
from vla_tune.run.plan import planned

SMALL = ["model.height=32", "model.width=32", "model.rows.size=720", "horizon=2"]


@pytest.mark.ci  # the whole way, code after code
@pytest.mark.parametrize("recipe", ["qwen2_5_vl_3b_qlora", "so101_qlora"])
def test_a_recipe_is_planned_and_ends_in_results(
    recipe: str, folder_of, families, robot_data, few, configuration, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("vla_tune.run.timing.LARGEST_TIMED", 1)  # as a base of the recipe's own size, this one is not timed
    words = [f"experiment={recipe}", f"model.folder={folder_of(families['qwen2_5_vl'])}", *robot_data("so101"), *few, *SMALL]
    cfg, plan = configuration("train", *words), configuration("plan", *words, "gpu=rtx4090")
    assert planned(plan, device=build(plan.gpu)).fits
    fine_tune(cfg, tmp_path / "run", resume_command="again")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["steps"] == 2
    assert results["open_loop"][-1]["policy"] == "fine_tuned"
    assert (tmp_path / "run" / "check.json").is_file()
