"""What a plan is told of a model of transformers, against the model itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from vla_tune.adapters import Lora
from vla_tune.data.collate import Batch
from vla_tune.models.hf import HFCheckpoint
from vla_tune.plan import Load, architecture, numerics
from vla_tune.plan.memory import activation_bytes

LORA = Lora(rank=4, alpha=8, targets=("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"), base="fp32")


def test_it_is_the_model_without_memory(checkpoint: HFCheckpoint):
    outline, model = checkpoint.outline(), checkpoint.load(device="cpu")
    assert {p.device.type for p in outline.model.parameters()} == {"meta"}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: parameter.shape for name, parameter in outline.model.named_parameters()} == shapes


def test_an_image_takes_as_many_tokens(checkpoint: HFCheckpoint, batch_for: Callable[[HFCheckpoint], Batch]):
    """Two cameras; some classes put a marker on either side of the patches."""
    batch, network = batch_for(checkpoint), checkpoint.load(device="cpu").network
    config: Any = network.config
    image = next(getattr(config, name) for name in ("image_token_id", "image_token_index") if hasattr(config, name))
    patches = int((batch.input_ids[0] == image).sum()) / 2
    assert patches <= checkpoint.outline().image_tokens <= patches + 3


def test_lora_takes_what_is_planned(checkpoint: HFCheckpoint, batch_for: Callable[[HFCheckpoint], Batch]):
    model, batch = checkpoint.load(device="cpu"), batch_for(checkpoint)
    report = LORA.attach(model)
    planned = architecture(checkpoint.outline(), LORA)
    assert planned.trainable == report.trainable
    assert planned.total == report.total
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    seen: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.train()(batch)
        measured = sum(storage.nbytes() for storage in seen.values())
    assert hidden.requires_grad
    load = Load(batch_size=len(batch), length=batch.input_ids.shape[1], labels=0, cameras=1)
    kept = activation_bytes(planned, load, numerics("fp32", precision="fp32", device="cpu"))
    assert kept == pytest.approx(measured, rel=0.15)


def test_blocks_of_an_unknown_kind_are_named(checkpoint_of: Callable[..., HFCheckpoint], families: dict[str, Any]):
    outline = checkpoint_of(families["paligemma"]).outline()
    adapted = replace(LORA, targets=("q_proj",), towers=("vision_tower", "language_model"))
    assert architecture(outline, adapted).uncounted == ("vision_tower",)
    assert architecture(checkpoint_of(families["paligemma"]).outline(), LORA).uncounted == ()
