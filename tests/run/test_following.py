"""A run ends well whatever follows its training: results, pictures, probes, frames that go along."""

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from vla_tune.check.kept import KEPT_FILE
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.run import finishing
from vla_tune.run.check import CHECK_FILE
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.folder import RESULTS_FILE

SMALL = [
    "adapter=lora_r2",
    "training.steps=2",
    "training.batch_size=2",
    "training.validate_every=2",
    "training.save_every=2",
    "schedule.warmup_steps=0",
    "validation.frames=4",
    "validation.predicted=2",
    "validation.seen=2",
    "data.sources.0.episodes=3",
    "data.held_out=0.4",
    "evaluation.rows=4",
    "evaluation.frames=6",
    "evaluation.drawn=1",
    "evaluation.probed=3",
    "evaluation.replayed=1",
]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models were alive at each load of one."""
    alive: list[weakref.ref] = []
    found: list[int] = []
    load = OpenVLACheckpoint.load

    def counted(self, *, device):
        found.append(sum(model() is not None for model in alive))
        model = load(self, device=device)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(OpenVLACheckpoint, "load", counted)
    return found


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_config_record, tiny_tokenizer, tiny_contract) -> list[str]:
    folder = tmp_path_factory.mktemp("following")
    torch.manual_seed(0)
    save_checkpoint(folder / "base", OpenVLA(tiny_config_record), tiny_tokenizer, tiny_contract)
    return [*SMALL, f"model.folder={folder / 'base'}", f"data.sources.0.folder={folder / 'data'}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, options, configuration) -> Path:
    """Of a robot without an environment."""
    run = tmp_path_factory.mktemp("runs") / "run"
    fine_tune(configuration("train", *options, "evaluation=held_out", "~env"), run, resume_command="again")
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def results_of(run: Path) -> dict:
    return json.loads((run / RESULTS_FILE).read_text())


def test_without_an_environment_a_run_ends_with_everything(finished):
    results = results_of(finished)
    assert results["evaluation"] == []
    assert list(results["budget"]) == ["record", "train", "evaluate"]
    assert [row["policy"] for row in results["open_loop"]][:2] == ["base", "fine_tuned"]
    row = results["open_loop"][1]
    assert row["frames"] == 6
    assert row["log_probability"] < 0, "of chunks with codes"
    assert row["groups"].keys() == {"tool_translation", "suction"}
    assert len(row["by_step"]) == 4
    assert results["costs"]["milliseconds"].keys() == {"base", "live", "merged"}
    findings = {found["probe"]: found for found in json.loads((finished / CHECK_FILE).read_text())}
    assert findings["replay"]["said"].startswith("not tried: there is no environment")
    pictures = {path.name for path in finished.glob("*.png")}
    assert pictures == {"loss.png", "held_out.png", "actions.png"}
    assert (finished / KEPT_FILE).is_file()


def test_a_finished_run_is_only_reported(run, options, loads, capsys, configuration):
    cfg = configuration("train", *options, "evaluation=held_out", "~env")
    assert fine_tune(cfg, run, resume_command="again") == results_of(run)["open_loop"][1]["error"]
    assert loads == []
    said = capsys.readouterr().out
    assert "tool_translation [m]" in said
    assert "Budget: record " in said


def test_nothing_may_follow(run, options, loads, configuration):
    number = fine_tune(configuration("train", *options, "evaluation=none", "~env"), run, resume_command="again")
    results = results_of(run)
    assert number == results["training"]["validation"]["validation/loss"]
    assert (results["evaluation"], "open_loop" in results) == ([], False)
    assert len(json.loads((run / CHECK_FILE).read_text())) > 10
    assert (run / KEPT_FILE).is_file()
    assert [path.name for path in run.glob("*.png")] == ["loss.png"], "what was measured otherwise is gone"
    assert loads == [0, 0, 0], "to train, to examine what was trained, merged: one at a time"


def test_results_come_first_and_what_fails_later_goes_on(run, options, loads, monkeypatch, configuration):
    cfg = configuration("train", *options, "evaluation=held_out", "~env", "evaluation.frames=3")

    def failing(*_):
        raise ValueError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(finishing, "costs", failing)
        with pytest.raises(ValueError, match="no memory") as caught:
            fine_tune(cfg, run, resume_command="again")
    assert "The training is done and kept" in caught.value.__notes__[0]
    assert loads == [0, 0, 0], "to train, the base, what was trained: one at a time"
    assert [row["frames"] for row in results_of(run)["open_loop"]][:2] == [3, 3]
    assert "costs" not in results_of(run)
    fine_tune(cfg, run, resume_command="again")
    assert results_of(run)["costs"]["milliseconds"].keys() == {"base", "live", "merged"}
    assert loads[3:] == [0, 0, 0], "the base, what was trained, merged: it is not trained again"


def test_it_is_evaluated_as_it_was_tried(run, tmp_path, options, configuration):
    base = next(word for word in options if word.startswith("model.folder="))
    number = evaluate_run(configuration("eval", f"run={run}", base, "evaluation.frames=4"), tmp_path / "out")
    (row, *_) = results_of(tmp_path / "out")["open_loop"]
    assert (row["policy"], row["frames"], row["error"]) == ("fine_tuned", 4, number)
    few = ["evaluation.episodes=1", "evaluation.num_envs=1", "evaluation.rows=1", "evaluation.max_steps=2"]
    number = evaluate_run(configuration("eval", f"run={run}", base, "evaluation=simulation", *few), tmp_path / "out")
    (row,) = results_of(tmp_path / "out")["evaluation"]
    assert (row["episodes"], 1 - row["success_rate"]) == (1, number)
