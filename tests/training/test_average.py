"""The mean of the weights over the steps: its value, where it stands in for them, and that a stopped run keeps it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vla_tune.models.openvla import OpenVLA
from vla_tune.plan.states import state_bytes
from vla_tune.training import CheckpointFolder, TrainingInterrupted, load_trained
from vla_tune.training.average import Average, Ema, Last, averaged
from vla_tune.training.checkpoint import OPTIMIZER, TRAINED
from vla_tune.training.metrics import Validation
from vla_tune.training.optim import adamw

LAST = "checkpoints/step_000006"


@pytest.fixture
def fresh_model(tiny_config_record):
    def build() -> OpenVLA:
        torch.manual_seed(0)
        return OpenVLA(tiny_config_record)

    return build


def moved(average: Average, values: list[float]) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A weight that takes each of these values in turn, and the average that followed."""
    layer = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.0, weight_decay=0.0)
    for step, value in enumerate(values, start=1):
        layer.weight.grad = torch.zeros(1, 1)
        optimizer.step()
        layer.weight.data.fill_(value)
        average.follow(optimizer, step=step)
    return layer, optimizer


def test_the_mean_is_that_of_its_formula():
    """d_2 = 3/12, d_3 = 4/13, d_4 = min(0.3, 5/14): by hand."""
    layer, optimizer = moved(Ema(0.3), [1.0, 2.0, 4.0, 8.0])
    second = 1.0 * 3 / 12 + 2.0 * 9 / 12
    third = second * 0.3 + 4.0 * 0.7
    with averaged(Ema(0.3), optimizer):
        assert layer.weight.item() == pytest.approx(third * 0.3 + 8.0 * 0.7)
    assert layer.weight.item() == 8.0


def test_the_last_weights_are_what_they_are():
    layer, optimizer = moved(Last(), [1.0, 2.0])
    with averaged(Last(), optimizer):
        assert layer.weight.item() == 2.0
    assert set(optimizer.state[layer.weight]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_that_cannot_be_is_named(decay):
    with pytest.raises(ValueError, match=r"average\.decay=.* must be a number above 0, at most 1"):
        Ema(decay)


def test_a_stopped_run_ends_with_the_same_bits_and_the_mean_acts(fresh_model, run_training, stop_at, tmp_path: Path):
    """The run's network, its checkpoint and what is loaded of it are the mean; training goes on with the weights themselves."""
    straight, stopped, plain = fresh_model(), fresh_model(), fresh_model()
    run_training(straight, run=tmp_path / "straight", average=Ema(0.9))
    with pytest.raises(TrainingInterrupted):
        run_training(fresh_model(), run=tmp_path / "stopped", average=Ema(0.9), loggers=[stop_at(3)])
    run_training(stopped, run=tmp_path / "stopped", average=Ema(0.9))
    run_training(plain, run=tmp_path / "plain")
    read = fresh_model()
    load_trained(read, CheckpointFolder(tmp_path / "stopped" / "checkpoints", 1).folder(6))
    raw = load_file(tmp_path / "stopped" / LAST / OPTIMIZER)
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, stopped.state_dict()[name])
        assert torch.equal(weight, read.state_dict()[name])
        if f"{name}::average" in raw:
            assert torch.equal(raw[f"{name}::average"], plain.state_dict()[name]), "the mean moves no step"
    assert any(not torch.equal(weight, plain.state_dict()[name]) for name, weight in straight.state_dict().items())
    for name in (TRAINED, OPTIMIZER):
        one, other = (load_file(tmp_path / run / LAST / name) for run in ("straight", "stopped"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_validated_is_the_mean(fresh_model, run_training, tiny_samples, remember, tmp_path: Path):
    options = {"steps": 4, "validation": Validation(tiny_samples), "validate_every": 2}
    lines = {}
    for name, average in {"mean": Ema(0.9), "last": Last()}.items():
        remember.lines = {}
        run_training(fresh_model(), run=tmp_path / name, average=average, loggers=[remember], **options)
        lines[name] = remember.lines
    assert [line["train/loss"] for line in lines["mean"].values()] == [line["train/loss"] for line in lines["last"].values()]
    assert lines["mean"][4]["validation/loss"] != lines["last"][4]["validation/loss"]


def test_a_plan_counts_it():
    layer = nn.Linear(8, 4, device="meta")
    count = partial(state_bytes, layer, list(layer.parameters()), partial(adamw, learning_rate=1e-3, weight_decay=0.0))
    assert count(Ema(0.999)).device - count().device == 4 * (8 * 4 + 4)
