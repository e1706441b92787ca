"""The whole way on a few steps: record -> train -> resume -> evaluate -> merge -> evaluate, in one process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vla_tune.models.files import content_hash
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.record import record_of
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.merge import merge_run
from vla_tune.schema import Contract
from vla_tune.tokens import FastTokens
from vla_tune.training import TrainingInterrupted
from vla_tune.training.loop import CHECKPOINTS

# The logits of random weights are nearly flat: rounding tips more of their near-ties, between bins further apart.
LENIENT = ["tolerance.token_agreement=0.7", "tolerance.mean_error=0.2"]

ANYTHING = ["tolerance.token_agreement=0.0", "tolerance.mean_error=10.0", "tolerance.drift_noise=10.0"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_config_record, tiny_tokenizer, tiny_contract) -> Path:
    """A base, and the place of the demonstrations, which the first run records and the others find."""
    folder = tmp_path_factory.mktemp("folders")
    torch.manual_seed(0)
    save_checkpoint(folder / "base", OpenVLA(tiny_config_record), tiny_tokenizer, tiny_contract)
    return folder


@pytest.fixture
def training(folders: Path) -> list[str]:
    return [
        f"model.folder={folders / 'base'}",
        f"data.sources.0.folder={folders / 'demonstrations'}",
        "data.sources.0.episodes=4",
        "data.held_out=0.25",
        "training.steps=4",
        "training.batch_size=4",
        "training.validate_every=2",
        "training.save_every=2",
        "schedule.warmup_steps=1",
        "optimizer.learning_rate=1e-4",
        "evaluation.episodes=2",
        "evaluation.num_envs=2",
        "evaluation.rows=2",
        "evaluation.remembered=[touch]",
        "evaluation.films=[0]",
        "evaluation.probed=4",
        "evaluation.replayed=1",
    ]


@pytest.mark.parametrize(
    "choices",
    [
        ["adapter=qlora_r16"],
        # the whole way again takes long: what differs is in the tests of the heads, the adapters and of resuming
        pytest.param(["head=regression", "addition=[film,proprioception]"], marks=pytest.mark.ci),
        pytest.param(["adapter=lora_r16"], marks=pytest.mark.ci),
        pytest.param(["adapter=full"], marks=pytest.mark.ci),
    ],
)
def test_demonstrations_become_a_merged_policy(
    tmp_path: Path, training: list[str], choices: list[str], interrupted_after, monkeypatch, configuration
) -> None:
    run = tmp_path / "run"
    cfg = configuration("train", *training, *choices)
    with interrupted_after(2), pytest.raises(TrainingInterrupted):
        fine_tune(cfg, run, resume_command="again")
    assert not (run / "results.json").exists()
    assert [folder.name for folder in (run / CHECKPOINTS).iterdir()] == ["step_000002"]
    loads, load = [], OpenVLACheckpoint.load
    monkeypatch.setattr(OpenVLACheckpoint, "load", lambda *args, **kwargs: (loads.append(1), load(*args, **kwargs))[1])
    failure_rate = fine_tune(cfg, run, resume_command="again")
    assert len(loads) == 4, "to train, the base by itself, what was trained, merged"
    monkeypatch.undo()

    results = json.loads((run / "results.json").read_text())
    cells = [(row["policy"], row["task"]) for row in results["evaluation"]]
    assert cells == [
        ("base", "lift"),
        ("fine_tuned", "lift"),
        ("wrong_instruction", "lift"),
        ("base", "touch"),
        ("fine_tuned", "touch"),
    ]
    assert failure_rate == 1 - results["evaluation"][1]["success_rate"]
    assert results["training"]["steps"] == 4
    assert results["training"]["training_loss"] > 0
    assert results["costs"]["not_mergeable"] is None
    assert results["costs"]["milliseconds"].keys() == {"base", "live", "merged"}
    assert not [path for path in run.iterdir() if path.name.startswith("tmp")], "the merged policy that was timed is gone"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    assert (run / "loss.png").stat().st_size > 5000
    assert (run / "success.png").stat().st_size > 5000
    assert len(list((run / "films").glob("*.mp4"))) == 1
    statistics = Contract.load(run).statistics
    assert statistics.num_trajectories == 3, "the held-out episode is not in the statistics"

    merge_run(configuration("merge", f"run={run}", "observations=20", *LENIENT))
    assert json.loads((run / "parity.json").read_text())["passed"]
    merge_run(configuration("merge", f"run={run}", "observations=20", "base=original", f"to={run / 'original'}", *ANYTHING))
    same = content_hash(run / "merged") == content_hash(run / "original")
    assert same == (cfg.adapter.base != "nf4"), "4 bits change what the adapter is added to"
    with pytest.raises(ValueError, match="base='fp8': choose trained"):
        merge_run(configuration("merge", f"run={run}", "base=fp8", f"to={run / 'third'}"))
    assert Contract.load(run / "merged") == Contract.load(run)
    names = load_file(run / "merged" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    evaluation = ["task=lift", "evaluation.episodes=2", "evaluation.num_envs=2", "evaluation.rows=2"]
    for policy in (run, run / "merged"):
        evaluate_run(configuration("eval", f"run={policy}", *evaluation), tmp_path / "evaluation")
        (row,) = json.loads((tmp_path / "evaluation" / "results.json").read_text())["evaluation"]
        assert row["episodes"] == 2


@pytest.mark.ci  # the whole way again: what differs is in the tests of the heads and of the tokens
def test_codes_of_varying_number_are_learned_and_acted_on(tmp_path: Path, training: list[str], configuration) -> None:
    run = tmp_path / "run"
    cfg = configuration(
        "train", *training, "adapter=lora_r16", "head=autoregressive", "tokens=fast_256", "evaluation.remembered=[]"
    )
    fine_tune(cfg, run, resume_command="again")
    tokens = record_of(Contract.load(run)).action_tokens
    assert isinstance(tokens, FastTokens)
    assert (tokens.horizon, tokens.action_dimension) == (4, 4)
    rows = json.loads((run / "results.json").read_text())["evaluation"]
    assert [row["policy"] for row in rows] == ["base", "fine_tuned", "wrong_instruction"]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["validation/token_accuracy"] <= 1
    assert last["validation/action_error"] > 0


def test_what_a_head_cannot_learn_is_refused_before_anything_is_written(tmp_path: Path, training: list[str], configuration) -> None:
    for overrides, message in (
        (["tokens=fast_256"], "codes of varying number cannot be predicted in parallel: choose head=autoregressive"),
        (["tokens=uniform_256", "tokens.num_bins=400", "head=autoregressive"], "has ids that are action codes"),
    ):
        with pytest.raises(ValueError, match=message):
            fine_tune(configuration("train", *training, *overrides), tmp_path / "run", resume_command="again")
        assert not (tmp_path / "run").exists()


def test_a_run_with_another_configuration_is_refused(tmp_path: Path, training: list[str], interrupted_after, configuration) -> None:
    run = tmp_path / "run"
    with interrupted_after(2), pytest.raises(TrainingInterrupted):
        fine_tune(configuration("train", *training), run, resume_command="again")
    changed = configuration("train", *training, "adapter.rank=8")
    with pytest.raises(ValueError, match=r"adapter.rank: 16 there, 8 now"):
        fine_tune(changed, run, resume_command="again")
