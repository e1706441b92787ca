from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

from vla_tune.adapters import Full, Lora
from vla_tune.plan import Load, architecture, numerics
from vla_tune.plan.activations import DecoderBlock, Numerics, Reader, rms_norm
from vla_tune.plan.memory import activation_bytes

GPU = numerics("bf16", precision="bf16", device="cuda")
CPU_MASK = replace(GPU, mask=2)
WITHOUT_AUTOCAST = replace(GPU, adapter=4)
EAGER = replace(GPU, scores=6)
ALL = ("q", "k", "v", "o", "gate", "up", "down")
PROJECT = ("q", "v", "gate", "up", "down")


def block_7b(adapted: tuple[str, ...] = PROJECT, *, learns: bool = False, dropout: bool = False) -> DecoderBlock:
    sizes = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096)}
    sizes |= {"gate": (4096, 11008), "up": (4096, 11008), "down": (11008, 4096)}
    readers = {
        name: Reader(
            inputs=inputs, outputs=outputs, learns=learns, rank=32 * (name in adapted), dropout=dropout and name in adapted
        )
        for name, (inputs, outputs) in sizes.items()
    }
    return DecoderBlock(**readers, heads=32, norms_learn=learns)


@pytest.mark.parametrize(
    ("block", "of", "measured"),
    [
        (block_7b((), learns=True), GPU, 194.4),
        (block_7b(), GPU, 174.7),
        (block_7b(("q", "v")), GPU, 145.0),
        (block_7b(dropout=True), CPU_MASK, 244.2),
        (block_7b(), WITHOUT_AUTOCAST, 244.5),
        (block_7b(), EAGER, 222.8),
    ],
    ids=["full", "lora", "q and v", "dropout", "float32 adapters without autocast", "eager attention"],
)
def test_a_layer_of_llama_2_7b(block: DecoderBlock, of: Numerics, measured: float):
    """KiB per token and layer, measured over two layers of the real width and the last norm at 300 tokens (torch 2.11, CPU)."""
    last = rms_norm(4096, of, learns=block.norms_learn)
    assert (block.kept(of, length=300) + last / 2) / 1024 == pytest.approx(measured, rel=0.01)


def test_the_docstring_of_the_block():
    assert block_7b().kept(GPU, length=300) / 1024 == pytest.approx(166, rel=0.005)


BOTH = {"targets": ("qkv", "fc1", "fc2", "q_proj"), "towers": ("vision_backbone", "language_model")}
FULL = Full()
CASES: dict[str, tuple[dict[str, Any] | Full, str, dict[str, Any]]] = {
    "lora": ({}, "bf16", {}),
    "qlora": ({"base": "nf4"}, "bf16", {}),
    "dropout": ({"dropout": 0.05}, "bf16", {}),
    "grouped queries": ({}, "bf16", {"num_key_value_heads": 2}),
    "float32 base": ({"base": "fp32"}, "bf16", {}),
    "no autocast": ({}, "fp32", {}),
    "vision too": (BOTH, "bf16", {}),
    "projector only": ({"targets": ("fc1",), "towers": ("projector",)}, "bf16", {}),
    "full": (FULL, "bf16", {}),
    "full in float32": (FULL, "fp32", {}),
}


QUICK = {"lora", "qlora", "vision too", "full"}
"""The others are variants of these."""
PARAMS = [pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.ci) for name, case in CASES.items()]


@pytest.mark.parametrize(("adapter", "precision", "middle"), PARAMS, indirect=["middle"])
def test_autograd_keeps_what_is_planned(adapter: dict[str, Any] | Full, precision: str, middle, lora: Lora):
    chosen = adapter if isinstance(adapter, Full) else replace(lora, **adapter)
    load = Load(batch_size=2, length=36 + 30, labels=16, cameras=1)
    measured = middle.kept(middle.trained(chosen), middle.batch(load, codes=16), precision=precision)
    model = architecture(middle.outline(), chosen)
    planned = activation_bytes(model, load, numerics(model.base, precision=precision, device="cpu"))
    assert planned == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.ci)])
def test_torch_counts_what_is_planned(precision: str, middle):
    """By its own tracker, which takes a model only where every parameter learns."""
    load = Load(batch_size=2, length=36 + 30, labels=16, cameras=1)
    network, batch = middle.trained(Full()), middle.batch(load, codes=16)
    tracker = MemTracker()
    tracker.track_external(network)
    with tracker, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = middle.action_model(network, batch).loss(batch).loss
        measured = tracker.get_tracker_snapshot("current")[torch.device("cpu")]
    assert loss.requires_grad
    model = architecture(middle.outline(), Full())
    assert activation_bytes(model, load, numerics(model.base, precision=precision, device="cpu")) == pytest.approx(
        measured[_MemRefType.ACT], rel=0.03
    )


def test_two_cameras_and_a_causal_prompt(middle, lora: Lora):
    load = Load(batch_size=2, length=2 * 36 + 30, labels=17, cameras=2)
    measured = middle.kept(middle.trained(lora), middle.batch(load, codes=0), precision="bf16")
    model = architecture(middle.outline(), lora)
    assert activation_bytes(model, load, numerics("bf16", precision="bf16", device="cpu")) == pytest.approx(measured, rel=0.03)


def test_checkpointing_keeps_the_inputs_of_blocks(middle, lora: Lora):
    load = Load(batch_size=4, length=66, labels=0, cameras=1, checkpointing=True)
    model = architecture(middle.outline(), lora)
    kept = activation_bytes(model, load, GPU) - 2 * model.adapter_parameters - rms_norm(512, GPU, learns=False) * 4 * 66
    assert kept == 8 * 512 * 2 * 4 * 66
