"""A state of a run that is not what it came to: the last of an unfinished one, the best, that of a step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_tune.data.recorded import observation_in
from vla_tune.models.sealed import SEAL_FILE
from vla_tune.policy import LocalPolicy
from vla_tune.run.chosen import at_step, chosen_run, step_in, wanted_step
from vla_tune.run.folder import ADAPTER_FOLDER, step_folder
from vla_tune.run.objects import load_policy, policy_of
from vla_tune.run.origin import Origin, load_origin
from vla_tune.run.stored import adapter_of, checkpoint_of
from vla_tune.schema import Contract
from vla_tune.training.checkpoint import Checkpoint, CheckpointFolder
from vla_tune.training.loop import CHECKPOINTS
from vla_tune.training.optim import trainable_parameters


@pytest.fixture
def saved() -> Callable[..., LocalPolicy]:
    """Saves a state of a run, and returns the policy that it is."""

    def save(run: Path, step: int, *, best: int | None) -> LocalPolicy:
        checkpoint, adapter = checkpoint_of(run), adapter_of(run)
        model = checkpoint.load(device="cpu")
        adapter.attach(model)
        torch.manual_seed(step)
        trained = trainable_parameters(model)
        for parameter in trained.values():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        record = Checkpoint(step=step, trained=trained, optimizer_tensors={}, optimizer_record={}, state={"best_step": best})
        CheckpointFolder(run / CHECKPOINTS, keep_last=9).save(record)
        contract = Contract.load(run)
        return policy_of(model, contract, checkpoint.interface(contract), rows=1, device="cpu")

    return save


def test_a_step_acts_as_the_run_did_then(run_of, saved, frames, tiny_contract, configuration):
    run = run_of("one", adapter="lora_r2", seed=1)
    shutil.rmtree(run / ADAPTER_FOLDER)  # it is not finished
    policies = {2: saved(run, 2, best=2), 4: saved(run, 4, best=2)}
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames]
    for words, step in (([], 4), (["use=last"], 4), (["use=best"], 2), (["step=2"], 2)):
        folder = chosen_run(configuration("merge", f"run={run}", *words), run)
        assert (folder, step_in(folder)) == (step_folder(run, step), step)
        assert np.array_equal(load_policy(folder, rows=1, device="cpu").policy.act(seen), policies[step].act(seen))
    assert not (run / ADAPTER_FOLDER).exists()


def test_what_was_made_of_another_checkpoint_is_made_anew(run_of, saved):
    run = run_of("one", adapter="lora_r2", seed=1)
    saved(run, 2, best=None)
    made = at_step(run, 2)
    before = (made / ADAPTER_FOLDER / "adapter_model.safetensors").stat().st_mtime_ns
    assert (at_step(run, 2) / ADAPTER_FOLDER / "adapter_model.safetensors").stat().st_mtime_ns == before
    shutil.rmtree(run / CHECKPOINTS)
    saved(run, 2, best=None)
    trained = run / CHECKPOINTS / "step_000002" / "trained.safetensors"
    other = bytearray(trained.read_bytes())
    other[-1] ^= 1
    trained.write_bytes(other)
    assert (at_step(run, 2) / ADAPTER_FOLDER / "adapter_model.safetensors").stat().st_mtime_ns != before


def test_a_finished_run_is_its_last(run_of, saved, configuration):
    run = run_of("one", adapter="lora_r2", seed=1)
    assert chosen_run(configuration("eval", f"run={run}", "task=lift", "use=last"), run) == run
    (run / CHECKPOINTS / "step_000004").mkdir(parents=True)
    assert (wanted_step(run, use=None, step=None), wanted_step(run, use="last", step=None)) == (None, None)
    assert wanted_step(run, use=None, step=4) is None
    assert step_in(run) == 4


@pytest.mark.parametrize(
    ("use", "step", "message"),
    [
        ("first", None, "use='first': choose last, best, or step="),
        ("best", 2, "use=best and step=2 are two choices"),
        (None, 3, r"step=3 of .* is not kept: choose one of 1, 2, 4"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path: Path, use: str | None, step: int | None, message: str):
    for name in ("checkpoints/step_000002", "checkpoints/step_000004", "steps/step_000001", "checkpoints/step_x"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        wanted_step(tmp_path, use=use, step=step)
    with pytest.raises(ValueError, match="holds no checkpoints"):
        wanted_step(tmp_path / "merged", use="best", step=None)


def test_a_base_elsewhere_is_found_by_its_hash_and_kept(run_of, base: Path, configuration, tmp_path: Path):
    run = run_of("one", adapter="lora_r2", seed=1)
    moved, other = base.rename(tmp_path / "moved"), tmp_path / "other"
    with pytest.raises(FileNotFoundError, match=r"say where it lies with model\.folder="):
        load_policy(run, rows=1, device="cpu")
    shutil.copytree(moved, other)
    (other / SEAL_FILE).unlink()  # as a folder that others published
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="holds weights with hash"):
        chosen_run(configuration("merge", f"run={run}", f"model.folder={other}"), run)
    chosen_run(configuration("merge", f"run={run}", f"model.folder={moved}"), run)
    assert load_policy(run, rows=1, device="cpu").folders[0] == moved


def test_the_shipped_base_is_found_wherever_the_package_lies(tmp_path: Path):
    config = "model: {_target_: vla_tune.models.openvla.OpenVLACheckpoint, folder: FOLDER}\n"
    (tmp_path / "config.yaml").write_text(config.replace("FOLDER", "/home/trainer/vla-tune/vla_tune/assets/tiny"))
    assert checkpoint_of(tmp_path).path.parts[-3:] == ("vla_tune", "assets", "tiny")
    (tmp_path / "config.yaml").write_text(config.replace("FOLDER", "/home/trainer/bases/tiny"))
    with pytest.raises(FileNotFoundError, match="is not at /home/trainer/bases/tiny on this machine"):
        checkpoint_of(tmp_path)
    Origin(base_hash="1" * 64, asset="tiny", device="cpu").save(tmp_path)
    assert checkpoint_of(tmp_path).path.parts[-3:] == ("vla_tune", "assets", "tiny")
    (tmp_path / "origin.json").write_text(json.dumps({"base_hash": "1", "asset": "../..", "device": None}))
    assert load_origin(tmp_path) is not None
    with pytest.raises(FileNotFoundError, match="on this machine"):
        checkpoint_of(tmp_path)
