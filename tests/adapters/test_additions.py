"""Modules that were added to a base learn in full beside any adapter, and travel with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vla_tune.adapters import Adapter, Full, Lora, PublishedLora
from vla_tune.data.collate import Batch
from vla_tune.models.files import content_hash
from vla_tune.models.heads import RegressionHead
from vla_tune.models.nf4 import num_quantized
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.additions import Film, Proprioception, Regression
from vla_tune.models.openvla.load import load
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.training.optim import parameter_groups

TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
ADDITIONS = {"head": Regression(action_dimension=4), "state": Proprioception(state_dimension=4), "film": Film()}
ADDED = ("action_head.", "proprio_projector.")
ADAPTERS: dict[str, Adapter] = {
    "bf16": Lora(rank=4, alpha=8, targets=TARGETS, base="bf16"),
    "nf4": Lora(rank=4, alpha=8, targets=TARGETS, base="nf4"),
    "fp32": Lora(rank=4, alpha=8, targets=TARGETS, base="fp32"),
    "full": Full(),
    "partly full": Full(targets=("layers.3.mlp.*",)),
}


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Callable[[Adapter], OpenVLACheckpoint]:
    save_checkpoint(tmp_path / "base", tiny_model, tiny_tokenizer, tiny_contract)
    return lambda adapter: OpenVLACheckpoint(str(tmp_path / "base"), base=adapter.base, additions=ADDITIONS)


def is_added(name: str) -> bool:
    return any(part in name for part in (*ADDED, ".scale.", ".shift."))


def taught(adapter: Adapter, checkpoint: OpenVLACheckpoint) -> OpenVLA:
    """Everything that learns has learned something random."""
    torch.manual_seed(1)
    model = checkpoint.load(device="cpu")
    adapter.attach(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("adapter", list(ADAPTERS.values()), ids=list(ADAPTERS))
def test_they_learn_in_float32_and_nothing_is_quantised(adapter: Adapter, checkpoint):
    model = checkpoint(adapter).load(device="cpu")
    report = adapter.attach(model)
    added = {name: weight for name, weight in model.named_parameters() if is_added(name)}
    assert len(added) == 16 + 4 + 12
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in added.values())
    assert report.modules["action_head"] == 8
    assert num_quantized(model) == (28 if adapter.base == "nf4" else 0)
    grouped = {id(weight) for group in parameter_groups(model) for weight in group["params"]}
    assert {id(weight) for weight in added.values()} <= grouped


@pytest.mark.parametrize("adapter", list(ADAPTERS.values()), ids=list(ADAPTERS))
def test_saved_with_the_adapter_and_loaded_strictly(adapter: Adapter, checkpoint, tmp_path: Path, tiny_batch: Batch):
    model, base_hash = taught(adapter, checkpoint(adapter)), checkpoint(adapter).content_hash()
    adapter.save(tmp_path / "adapter", model, base_hash=base_hash)
    torch.manual_seed(99)
    fresh = checkpoint(adapter).load(device="cpu")
    adapter.attach(fresh)
    adapter.load(tmp_path / "adapter", fresh, base_hash=base_hash)
    other = dict(fresh.named_parameters())
    assert all(torch.equal(weight, other[name]) for name, weight in model.named_parameters() if weight.requires_grad)
    with torch.no_grad():
        assert torch.equal(model.eval()(tiny_batch), fresh.eval()(tiny_batch))
    less = OpenVLACheckpoint(str(tmp_path / "base"), base=adapter.base).load(device="cpu")
    adapter.attach(less)
    with pytest.raises(ValueError, match=r"left over|modules_to_save"):
        adapter.load(tmp_path / "adapter", less, base_hash=base_hash)


@pytest.mark.parametrize("adapter", list(ADAPTERS.values()), ids=list(ADAPTERS))
@torch.no_grad()
def test_merged_they_are_weights_like_others(
    adapter: Adapter, checkpoint, tmp_path: Path, tiny_batch: Batch, tiny_contract, tiny_head, merge_in_memory
):
    """The written folder is the live function in float32, and needs no list of additions."""
    model = taught(adapter, checkpoint(adapter)).eval()
    merged = merge_in_memory(adapter, model, dtype=torch.float32)
    assert not [name for name in merged if "lora" in name or "base_layer" in name]
    (tmp_path / "merged").mkdir()
    checkpoint(adapter).write(tmp_path / "merged", merged, tiny_contract)
    written = load_file(tmp_path / "merged" / "model.safetensors")
    for name, weight in model.named_parameters():
        if is_added(name):
            assert torch.equal(written[name], weight)
    head = RegressionHead(tiny_head.space)
    live = head.over(model.float() if adapter.base != "nf4" else model).act(tiny_batch)
    again = head.over(load(tmp_path / "merged", base="fp32")).act(tiny_batch)
    assert abs(live - again).max() < (0.1 if adapter.base == "nf4" else 1e-4) * abs(live).max()


def test_a_published_adapter_goes_on_beside_them(checkpoint, tmp_path: Path):
    """It was trained without them, and names no base."""
    adapter, plain = ADAPTERS["bf16"], OpenVLACheckpoint(str(tmp_path / "base"))
    checkpoint(adapter)
    adapter.save(tmp_path / "adapter", taught(adapter, plain), base_hash="")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(3)
    model = checkpoint(adapter).load(device="cpu")
    drawn = model.action_head.model.fc1.weight.clone()
    published = PublishedLora(folder=str(tmp_path / "adapter"))
    report = published.attach(model)
    assert report.modules["action_head"] == 8
    assert torch.equal(model.action_head.model.fc1.weight, drawn.float())
    name = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_B.weight"
    assert torch.equal(published.lora.stored(model)[name], tensors[name])


def test_a_base_with_additions_has_the_hash_of_its_file(checkpoint, tmp_path: Path):
    """What was drawn is saved with the adapter, so the base is the same for every seed."""
    assert checkpoint(ADAPTERS["bf16"]).content_hash() == content_hash(tmp_path / "base")


def test_a_target_among_them_is_refused(checkpoint):
    everywhere = Lora(rank=4, alpha=8, targets=("fc1",), towers=())
    with pytest.raises(ValueError, match=r"fc1 is a target already: choose one"):
        everywhere.attach(checkpoint(everywhere).load(device="cpu"))
