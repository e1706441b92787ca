"""The whole way with a model of transformers: record -> train -> evaluate -> merge -> evaluate."""

import json
from pathlib import Path

import pytest

from vla_tune.models.hf.record import ProcessorRule
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.merge import merge_run
from vla_tune.schema import Contract


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [("smolvlm", "smolvlm2_500m"), ("qwen2_5_vl", "qwen2_5_vl_3b")])
def test_demonstrations_become_a_merged_policy(name: str, option: str, folder_of, families, tmp_path: Path, configuration):
    run, folder = tmp_path / "run", folder_of(families[name])
    rows = ["model.rows.size=720"] if name == "qwen2_5_vl" else []
    training = [
        f"model={option}",
        f"model.folder={folder}",
        "model.height=32",
        "model.width=32",
        *rows,
        "head=autoregressive",
        "adapter=qlora_r16",
        "horizon=2",
        f"data.sources.0.folder={tmp_path / 'demonstrations'}",
        "data.sources.0.episodes=3",
        "data.held_out=0.3",
        "training.steps=3",
        "training.batch_size=4",
        "training.validate_every=3",
        "training.save_every=3",
        "training.workers=1",
        "schedule.warmup_steps=1",
        "evaluation.episodes=1",
        "evaluation.num_envs=1",
        "evaluation.rows=1",
        "evaluation.films=[]",
    ]
    fine_tune(configuration("train", *training), run, resume_command="again")
    rows_of = json.loads((run / "results.json").read_text())["evaluation"]
    assert [row["policy"] for row in rows_of] == ["fine_tuned", "wrong_instruction"], "a base that never acted is not tried"
    assert isinstance(Contract.load(run).image, ProcessorRule)
    # The logits of random weights are nearly flat: rounding tips more of their near-ties, between bins further apart.
    merge_run(configuration("merge", f"run={run}", "observations=8", "tolerance.token_agreement=0.5", "tolerance.mean_error=0.4"))
    once = ["task=lift", "evaluation.episodes=1", "evaluation.num_envs=1", "evaluation.rows=1"]
    evaluate_run(configuration("eval", f"run={run / 'merged'}", *once), tmp_path / "evaluation")
    (row,) = json.loads((tmp_path / "evaluation" / "results.json").read_text())["evaluation"]
    assert row["episodes"] == 1
