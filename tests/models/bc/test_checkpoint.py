"""A behaviour cloner's weights: drawn from a seed, learned in full, merged, written and read again."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla_tune.adapters import Full
from vla_tune.adapters.merging import merged
from vla_tune.data import training_pipeline
from vla_tune.data.pipeline import build_pipeline
from vla_tune.data.transforms import Transformed
from vla_tune.models.base import Checkpoint, Outlined
from vla_tune.models.bc import BCCheckpoint
from vla_tune.models.forward import Forward
from vla_tune.run.stored import checkpoint_in
from vla_tune.schema import Contract
from vla_tune.training import TrainingInterrupted, train
from vla_tune.training.average import Ema
from vla_tune.training.checkpoint import OPTIMIZER, TRAINED
from vla_tune.training.optim import adamw, constant


@pytest.fixture
def contract(robots, contract_for, shift) -> Contract:
    return contract_for(robots["tabletop"], shift)


@pytest.fixture
def learning(contract: Contract, checkpoint_for, frames_of, tmp_path: Path):
    """Trains for `steps` in a folder, exactly as a run does; returns the model."""

    def run(name: str, *, steps: int, **options):
        checkpoint = checkpoint_for(contract.embodiment)
        interface, network = checkpoint.interface(contract), checkpoint.load(device="cpu")
        Full().attach(network)
        model = interface.over(network)
        given = {
            "samples": Transformed(frames_of(contract.embodiment), training_pipeline(contract, interface)),
            "optimizer": partial(adamw, learning_rate=3e-3, weight_decay=1e-4),
            "schedule": constant,
            "batch_size": 4,
            "gradient_accumulation": 1,
            "max_gradient_norm": 1.0,
            "precision": "bf16",
            "seed": 0,
            "run": tmp_path / name,
            "loggers": [],
            "validate_every": 100,
            "save_every": 100,
            "keep_last": 2,
            "pad_id": 0,
            "resume_command": "",
            "average": Ema(0.9),
        }
        result = train(model=model, steps=steps, **given | options)
        return model, result

    return run


def test_it_is_a_checkpoint_that_a_seed_identifies(contract: Contract, checkpoint_for):
    one = checkpoint_for(contract.embodiment)
    assert isinstance(checkpoint_for(contract.embodiment), Checkpoint)
    assert isinstance(checkpoint_for(contract.embodiment), Outlined)
    before = torch.random.get_rng_state()
    first, again, other = (replace(one, seed=seed).load(device="cpu").state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["chunk.0.weight"], other["chunk.0.weight"])
    wider = checkpoint_for(contract.embodiment, hidden=40)
    assert len({each.content_hash() for each in (one, replace(one, seed=1), wider)}) == 3
    assert str(one.path) == one.folder == "nothing"


def test_what_it_cannot_be_is_refused(contract: Contract, checkpoint_for, robots, tmp_path: Path):
    one = checkpoint_for(contract.embodiment)
    with pytest.raises(ValueError, match="all of a behaviour cloner learns, from nothing: choose adapter=full"):
        replace(one, base="nf4")
    with pytest.raises(ValueError, match="film: a behaviour cloner takes no additions"):
        replace(one, additions={"film": {}})
    with pytest.raises(ValueError, match="a model from nothing needs both"):
        BCCheckpoint("nothing")
    with pytest.raises(ValueError, match=r"cameras=1 \(wanted 2\)"):
        one.interface(replace(contract, embodiment=robots["two_cameras"].embodiment))
    with pytest.raises(ValueError, match=r"family 'openvla', this one is 'bc'"):
        one.interface(robots["tabletop"])
    with pytest.raises(ValueError, match="pictures of 64, nothing reads 32: take both from one run"):
        one.interface(replace(contract, model={**contract.model, "size": 64}))
    with pytest.raises(FileNotFoundError, match="sizes of a behaviour cloner"):
        BCCheckpoint(str(tmp_path / "typing_error")).load(device="cpu")


def test_it_learns_and_what_is_merged_acts_the_same(contract: Contract, checkpoint_for, learning, frames_of, tmp_path: Path):
    model, result = learning("run", steps=80)
    checkpoint = checkpoint_for(contract.embodiment)
    interface = checkpoint.interface(contract)
    pipeline = build_pipeline(contract, interface)
    samples = [pipeline(frame) for frame in frames_of(contract.embodiment)]
    live = Forward(model, 0).each(samples)
    errors = [np.abs(said - sample["actions"])[sample["action_mask"]].mean() for said, sample in zip(live, samples, strict=True)]
    assert result.first_loss is not None
    assert np.mean(errors) < 0.25 * result.first_loss
    adapter, folder = Full(), tmp_path / "merged"
    adapter.save(tmp_path / "adapter", model.network, base_hash=checkpoint.content_hash())
    changes = adapter.changes(tmp_path / "adapter", base_hash=checkpoint.content_hash())
    folder.mkdir()
    checkpoint.write(folder, merged(checkpoint.weights(), changes, dtype=torch.float32), contract)
    again = checkpoint_in(folder)
    assert (again.folder, again.base) == (str(folder), "fp32")
    read = again.interface(Contract.load(folder)).over(again.load(device="cpu"))
    np.testing.assert_array_equal(Forward(read, 0).each(samples), live)
    assert json.loads((folder / "config.json").read_text())["sizes"]["hidden"] == 32
    assert BCCheckpoint(str(folder)).content_hash() != checkpoint.content_hash()
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"hidden": 32', '"hidden": 40'))
    with pytest.raises(ValueError, match="changed since the folder was written"):
        checkpoint_in(folder).load(device="cpu")


def test_a_run_that_was_stopped_ends_with_the_same_bits(learning, interrupted_after, tmp_path: Path):
    """Shifted pictures, noisy states and the mean of the weights included."""
    whole, _ = learning("whole", steps=6)
    with interrupted_after(3), pytest.raises(TrainingInterrupted):
        learning("stopped", steps=6)
    torch.manual_seed(99)
    again, _ = learning("stopped", steps=6)
    one, other = whole.network.state_dict(), again.network.state_dict()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    for name in (TRAINED, OPTIMIZER):
        files = [load_file(tmp_path / run / "checkpoints" / "step_000006" / name) for run in ("whole", "stopped")]
        assert files[0].keys() == files[1].keys()
        assert [key for key in files[0] if not torch.equal(files[0][key], files[1][key])] == []
