"""Recipes from demonstrations to results, in one process: a few steps over a random tiny base of their class."""

import json
from pathlib import Path

import pytest

from vla_tune.run.fine_tune import fine_tune

ROBOTS = {"openvla_7b_lora": "so101", "openvla_7b_qlora": "so101", "openvla_oft": "so101", "aloha_bimanual": "aloha"}


@pytest.mark.parametrize(
    "recipe",
    [
        "openvla_oft",
        # the whole way again takes long
        pytest.param("openvla_7b_qlora", marks=pytest.mark.ci),
        pytest.param("openvla_7b_lora", marks=pytest.mark.ci),
        pytest.param("aloha_bimanual", marks=pytest.mark.ci),
    ],
)
def test_a_recipe_ends_in_results(recipe: str, fused, robot_data, few, configuration, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("vla_tune.run.timing.LARGEST_TIMED", 1)  # as a base of the recipe's own size, this one is not timed
    words = [f"experiment={recipe}", f"model.folder={fused.folder}", *robot_data(ROBOTS[recipe]), *few]
    cfg = configuration("train", *words)
    error = fine_tune(cfg, tmp_path / "run", resume_command="again")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["steps"] == 2
    row = results["open_loop"][-1]
    assert (row["policy"], row["error"], len(row["by_step"])) == ("fine_tuned", error, cfg.horizon)
    assert (tmp_path / "run" / "check.json").is_file()
