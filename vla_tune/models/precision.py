"""The format of the frozen weights (float32, bfloat16 or 4-bit NF4), and the attention kernel that suits it."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from vla_tune.models.patterns import matching_names

# Before the import: bitsandbytes warns that it cannot fetch an optional kernel, which only the path switched off below would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from bitsandbytes.functional import QuantState, dequantize_4bit  # noqa: E402
from bitsandbytes.nn.modules import Linear4bit, Params4bit  # noqa: E402

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": torch.bfloat16}
FORMATS = tuple(_DTYPES)
_NF4: dict[str, Any] = {"compress_statistics": True, "quant_type": "nf4"}
NF4_TARGETS = ("language_model.model.layers.*",)
"""The linear layers of the language model's blocks. Vision towers, projectors, embeddings and `lm_head` stay as they are: they are
a seventh of the model's weights, and SigLIP's widths are no multiples of 64, which the kernels need."""


def weight_dtype(base: str) -> torch.dtype:
    """The dtype of the weights that are not 4-bit.

    Raises:
        ValueError: `base` is no format.
    """
    if base == "fp16":
        raise ValueError(
            "base=fp16 is refused: a CPU multiplies it 400 times slower than bf16, and it overflows. Use bf16 or fp32."
        )
    if base not in _DTYPES:
        raise ValueError(f"base={base!r} is no weight format: choose one of {', '.join(FORMATS)}.")
    return _DTYPES[base]


def weight_format(model: nn.Module) -> str:
    """Which of `FORMATS` the frozen weights of `model` have.

    Raises:
        ValueError: some are float32 and some bfloat16, so no format describes them.
    """
    if any(isinstance(module, Linear4bit) for module in model.modules()):
        return "nf4"
    dtypes = {parameter.dtype for parameter in model.parameters()}
    for base in ("fp32", "bf16"):
        if dtypes == {_DTYPES[base]}:
            return base
    raise ValueError(f"the weights are of {sorted(map(str, dtypes))}: load the base again in one of {', '.join(FORMATS)}.")


def quantize(model: nn.Module, *, targets: Sequence[str] = NF4_TARGETS, device: torch.device | str = "cpu") -> int:
    """Replace the matching linear layers by NF4 ones on `device`, in place; returns how many.

    NF4 with double quantisation, blocks of 64, computing in bfloat16 (QLoRA, arXiv 2305.14314, §3). Weights are rounded to
    bfloat16 first, so that the result does not depend on the format they came in. `targets` is the whole list: nothing else is
    quantised, and nothing is skipped by default.

    Raises:
        ValueError: a pattern matches no linear layer.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names = matching_names(list(linears), targets)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _quantized(linears[name], torch.device(device)))
    return len(names)


def _quantized(linear: nn.Linear, device: torch.device) -> Linear4bit:
    layer = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch.bfloat16,
        device="meta",
        **_NF4,
    )
    # The first evaluation forward on a CPU with avx512_bf16 would repack the weights for good: no gradient passes them
    # afterwards, and what is saved or merged from them is wrong (bitsandbytes 0.50.2, `Linear4bit.forward`).
    assert hasattr(layer, "support_avx512bf16_for_cpu"), "bitsandbytes renamed the switch of its CPU repacking"
    layer.support_avx512bf16_for_cpu = False
    weight = Params4bit(linear.weight.data.to(torch.bfloat16), **_NF4, module=layer)  # pyright: ignore[reportCallIssue]
    layer.weight = weight.to(device)  # pyright: ignore[reportAttributeAccessIssue] (this quantises)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.data.to(device, torch.bfloat16), requires_grad=False)
    return layer.train(linear.training)


def dequantized(weight: nn.Parameter) -> Float[Tensor, "out in"]:
    """The bfloat16 weights that a 4-bit layer multiplies with, bit for bit."""
    state = weight.quant_state  # pyright: ignore[reportAttributeAccessIssue]
    assert not getattr(state, "packing_format_for_cpu", False), "bitsandbytes repacked this layer, which `quantize` prevents"
    return dequantize_4bit(weight.data, state)


def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, 4-bit ones dequantised."""
    for name, parameter in model.named_parameters():
        yield name, dequantized(parameter) if isinstance(parameter, Params4bit) else parameter.detach()


def num_quantized(model: nn.Module) -> int:
    """How many 4-bit layers there are."""
    return sum(isinstance(module, Linear4bit) for module in model.modules())


def choose_attention(model: nn.Module, device: torch.device | str) -> str:
    """Set the attention kernel of the language model and the vision towers, in place; returns its name.

    `eager` on a CPU, where the fused kernel takes 2 to 3 times as long in bfloat16 and as long in float32; else `sdpa`.
    """
    name = "eager" if torch.device(device).type == "cpu" else "sdpa"
    set_attention(model, name)
    return name


def set_attention(model: nn.Module, name: str) -> None:
    """Set the attention kernel of the language model and the vision towers, in place; timm knows eager and fused ones only."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation(name)
        if hasattr(module, "fused_attn"):
            module.fused_attn = name != "eager"  # pyright: ignore[reportArgumentType] (timm's switch)


@dataclass(frozen=True)
class TowerWeights:
    """The weights below one child of a model."""

    name: str
    parameters: int
    bytes_: int
    modules_4bit: int
    formats: Mapping[str, int]
    """Format -> parameters in it."""


def weight_report(model: nn.Module) -> tuple[TowerWeights, ...]:
    """What lies in memory, tower by tower."""
    return tuple(_tower(name, child) for name, child in model.named_children())


def report_text(towers: Sequence[TowerWeights]) -> str:
    """One line for each tower, and the sum."""
    lines = [
        f"{tower.name}: {tower.parameters:,} parameters, {tower.bytes_ / 1e6:,.1f} MB, "
        + ", ".join(f"{count:,} in {name}" for name, count in tower.formats.items())
        for tower in towers
    ]
    total = (
        f"total: {sum(tower.parameters for tower in towers):,} parameters, {sum(tower.bytes_ for tower in towers) / 1e6:,.1f} MB"
    )
    return "\n".join([*lines, total])


def _tower(name: str, module: nn.Module) -> TowerWeights:
    formats: Counter[str] = Counter()
    size = 0
    for parameter in module.parameters():
        if isinstance(parameter, Params4bit):
            state = parameter.quant_state
            assert state is not None, "a 4-bit weight without its statistics"
            assert state.shape is not None
            formats["nf4"] += math.prod(state.shape)
            size += parameter.nbytes + _statistics_bytes(state)
        else:
            formats[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
            size += parameter.nbytes
    return TowerWeights(name, sum(formats.values()), size, num_quantized(module), dict(formats))


def num_parameters(model: nn.Module) -> int:
    """Parameters, a 4-bit one counted as one."""
    return sum(tower.parameters for tower in weight_report(model))


def _statistics_bytes(state: QuantState) -> int:
    own = [tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None]
    return sum(tensor.nbytes for tensor in own) + (_statistics_bytes(state.state2) if state.state2 else 0)
