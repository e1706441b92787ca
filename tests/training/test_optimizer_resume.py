"""Every optimizer of `conf/optimizer`: 2N steps in one go == N steps, Ctrl-C, N more, bit for bit; `-m gpu` on a GPU."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vla_tune.adapters import Lora
from vla_tune.models.openvla import OpenVLA
from vla_tune.training import TrainingInterrupted
from vla_tune.training.checkpoint import OPTIMIZER, TRAINED
from vla_tune.training.optim import adamw, adamw_8bit, adamw_lora_plus, paged_adamw_8bit, paged_adamw_32bit

STEPS = 6
OPTIMIZERS = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
    "adamw_lora_plus": partial(adamw_lora_plus, ratio=4.0),
    "paged_adamw_8bit": paged_adamw_8bit,
    "paged_adamw_32bit": paged_adamw_32bit,
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BLOCKWISE = 4096  # numbers; bitsandbytes keeps the moments of a smaller tensor in float32


@pytest.fixture
def adapted_model(tiny_config_record):
    def build(device: str) -> nn.Module:
        """With dropout, and an A of 64 x 64 numbers: large enough for moments in 8 bits."""
        torch.manual_seed(0)
        model = OpenVLA(tiny_config_record)
        Lora(rank=64, alpha=8, targets=["q_proj", "down_proj"], dropout=0.1, base="fp32").attach(model)
        return model.to(device)

    return build


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_resumes_to_the_same_bits(name, device, adapted_model, run_training, stop_at, tmp_path: Path) -> None:
    options = {"steps": STEPS, "optimizer": partial(OPTIMIZERS[name], learning_rate=3e-3, weight_decay=0.01)}
    run_training(adapted_model(device), run=tmp_path / "straight", **options)
    with pytest.raises(TrainingInterrupted, match=f"step {STEPS // 2} of {STEPS} is saved"):
        run_training(adapted_model(device), run=tmp_path / "resumed", loggers=[stop_at(STEPS // 2)], **options)
    run_training(adapted_model(device), run=tmp_path / "resumed", **options)

    for file in (TRAINED, OPTIMIZER):
        straight, resumed = (load_file(tmp_path / run / f"checkpoints/step_{STEPS:06d}" / file) for run in ("straight", "resumed"))
        assert straight.keys() == resumed.keys()
        assert straight
        assert [key for key, value in straight.items() if not torch.equal(value, resumed[key])] == []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_moments_are_kept_in_eight_bits(name, device, adapted_model, run_training, tmp_path: Path) -> None:
    """Or the test above would compare float32 with float32."""
    model = adapted_model(device)
    assert max(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) >= BLOCKWISE
    run_training(model, optimizer=partial(OPTIMIZERS[name], learning_rate=3e-3, weight_decay=0.01))
    state = load_file(tmp_path / f"run/checkpoints/step_{STEPS:06d}" / OPTIMIZER)
    assert torch.uint8 in {value.dtype for value in state.values()}
