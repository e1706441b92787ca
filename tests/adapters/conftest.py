"""A tiny base on disk, and LoRA layers that have learned something."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vla_tune.adapters import Lora
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.load import load
from vla_tune.models.openvla.save import save_checkpoint

TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def load_base(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Callable[[str], OpenVLA]:
    """The same random base in any format."""
    save_checkpoint(tmp_path / "base", tiny_model, tiny_tokenizer, tiny_contract)
    return lambda base: load(tmp_path / "base", base=base)


@pytest.fixture
def adapted(load_base) -> Callable[[str], tuple[Lora, OpenVLA]]:
    """The base with a LoRA adapter that changes it: B is random instead of zero."""

    def build(base: str) -> tuple[Lora, OpenVLA]:
        adapter, model = Lora(rank=4, alpha=8, targets=TARGETS, base=base), load_base(base)
        torch.manual_seed(1)
        adapter.attach(model)
        randomize(model)
        return adapter, model

    return build


def randomize(model: OpenVLA, seed: int = 2) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
