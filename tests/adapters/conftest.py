"""A tiny base on disk, LoRA layers that have learned something, and the base of the original's LoRA numbers."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from vla_tune.adapters import Lora
from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.load import load
from vla_tune.models.openvla.save import save_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
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


@pytest.fixture
def learn() -> Callable[..., list[float]]:
    """Fifteen steps on one batch; returns the losses."""

    def learning(model: ActionModel, batch: Batch, parameters: Iterable[nn.Parameter], *, rate: float) -> list[float]:
        optimizer, losses = torch.optim.AdamW(parameters, lr=rate), []
        for _ in range(15):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return learning


@pytest.fixture
def golden_base() -> Callable[[torch.dtype], OpenVLA]:
    """The model of `golden/siglip`: one vision tower, random weights of bfloat16 precision."""
    config = OpenVLAConfig(
        timm_model_ids=["vit_so400m_patch14_siglip_224"],
        image_sizes=[224],
        timm_kwargs=[{"embed_dim": 72, "depth": 3, "num_heads": 4}],
        text_config={
            "hidden_size": 48,
            "intermediate_size": 132,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "num_hidden_layers": 2,
            "vocab_size": 864,
            "pad_token_id": 800,
        },
    )

    def build(dtype: torch.dtype = torch.float32) -> OpenVLA:
        model = OpenVLA(config)
        model.load_state_dict(load_file(GOLDEN / "siglip.safetensors"), strict=True)
        return model.to(dtype).eval()

    return build


@pytest.fixture(scope="session")
def golden_batch() -> Batch:
    """The three training samples of `golden/siglip`."""
    golden = np.load(GOLDEN / "siglip.npz")
    ids = torch.from_numpy(golden["input_ids"])
    images = [np.asarray(Image.open(GOLDEN / f"train_224_{number}.png")).astype(np.float32) / 255 for number in range(3)]
    return Batch(
        pixel_values=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[:, None] * 2 - 1,
        input_ids=ids,
        attention_mask=torch.from_numpy(golden["attention_mask"]),
        placeholders=torch.zeros_like(ids, dtype=torch.bool),
        prompt_length=torch.ones(len(ids), dtype=torch.long),
        parallel=False,
        padded=bool((golden["attention_mask"] == 0).any()),
        state=torch.zeros(3, 1),
        labels=torch.from_numpy(golden["labels"]),
    )
