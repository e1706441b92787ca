"""Linear layers in 4 bits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from jaxtyping import BFloat16, Float
from torch import Tensor, nn

from vla_tune.models.four_bits import FOUR_BITS, TABULATED, Quantized, format_of, quantized
from vla_tune.models.nf4_blocks import BLOCK, Blocks
from vla_tune.models.nf4_file import is_written, map_blocks, write_blocks
from vla_tune.models.patterns import matching_names

STORAGES = {"uint8": torch.uint8, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class NF4:
    """What a 4-bit `base` means: blocks of 64, computing in bfloat16 (QLoRA, arXiv 2305.14314, §3); the format is another choice.

    Raises:
        ValueError: the storage is unknown.
    """

    targets: Sequence[str]
    """Patterns of the linear layers (`models.patterns`). This is the whole list: nothing else is quantised, nothing skipped."""
    storage: str = "uint8"
    """The dtype that the bytes are called; FSDP shards only weights of one dtype, so there it is that of the other weights."""

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ValueError(f"nf4.storage={self.storage!r}: choose one of {', '.join(STORAGES)}.")


def quantize(model: nn.Module, nf4: NF4, *, base: str = "nf4", copy: Path | None = None, device: torch.device | str = "cpu") -> int:
    """Replace the matching linear layers by 4-bit ones on `device`, in place and one after the other; returns how many.

    Weights are rounded to bfloat16 first, so that the result does not depend on the format they came in, and are quantised where
    they lie: weights of a file on the CPU, so that the result does not depend on the machine.

    Args:
        model: Its weights may be mapped to files; they are read as they are needed.
        nf4: Which layers, and how.
        base: One of `four_bits.FOUR_BITS`.
        copy: A file for NF4 weights with double quantisation: mapped if it exists, else written. Its name must tell these
            weights from others. The other formats keep no copy.
        device: Where the 4-bit weights go.

    Raises:
        ValueError: a pattern matches no linear layer, a layer does not fill blocks of 64 or holds NaN, or the copy is damaged.
    """
    chosen = quantizable(model, nf4)
    names = list(chosen)
    for name, blocks in _made(chosen, base) if copy is None or base != TABULATED else _mapped(chosen, copy):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _layer(chosen.pop(name), blocks, nf4, base, torch.device(device)))
    return len(names)


def quantizable(model: nn.Module, nf4: NF4) -> dict[str, nn.Linear]:
    """The linear layers that `nf4` means.

    Raises:
        ValueError: a pattern matches no linear layer.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: linears[name] for name in matching_names(list(linears), nf4.targets)}


def _made(linears: Mapping[str, nn.Linear], base: str) -> Iterator[tuple[str, Any]]:
    for name in list(linears):
        try:
            yield name, quantized(linears[name].weight.data.to(torch.bfloat16), base)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _mapped(linears: Mapping[str, nn.Linear], copy: Path) -> Iterator[tuple[str, Blocks]]:
    shapes = {name: linear.weight.shape for name, linear in linears.items()}
    if not is_written(copy):
        write_blocks(copy, shapes, _made(linears, TABULATED))
    return map_blocks(copy, shapes)


def _layer(linear: nn.Linear, blocks: Quantized, nf4: NF4, base: str, device: torch.device) -> Linear4bit:
    chosen = FOUR_BITS[base]
    options = {"compress_statistics": chosen.double, "quant_type": chosen.codes, "quant_storage": STORAGES[nf4.storage]}
    bias = linear.bias is not None
    layer = Linear4bit(linear.in_features, linear.out_features, bias, compute_dtype=torch.bfloat16, device="meta", **options)
    # The first evaluation forward on a CPU with avx512_bf16 would repack the weights for good: no gradient passes them
    # afterwards, and what is saved or merged from them is wrong (bitsandbytes 0.50.2, `Linear4bit.forward`).
    assert hasattr(layer, "support_avx512bf16_for_cpu"), "bitsandbytes renamed the switch of its CPU repacking"
    layer.support_avx512bf16_for_cpu = False
    layer.quant_state = blocks.state(linear.weight.shape)  # pyright: ignore[reportAttributeAccessIssue]
    codes = blocks.codes.reshape(-1).view(STORAGES[nf4.storage]).reshape(-1, 1)
    make: Any = Params4bit
    weight = make(codes, quant_state=layer.quant_state, blocksize=BLOCK, module=layer, bnb_quantized=True, **options)
    layer.weight = weight.to(device)
    if bias:
        layer.bias = nn.Parameter(linear.bias.data.to(device, torch.bfloat16), requires_grad=False)
    return layer.train(linear.training)


def rounded(weight: Tensor, base: str, blocks: Blocks | None = None) -> BFloat16[Tensor, "out in"]:
    """What a layer of these weights multiplies with in 4 bits, without making the layer; `blocks` if they are made already."""
    made = blocks or quantized(weight.to(torch.bfloat16), base)
    return dequantize_4bit(made.codes, made.state(weight.shape))


def dequantized(weight: Tensor) -> Float[Tensor, "out in"]:
    """The bfloat16 weights that a 4-bit layer multiplies with, bit for bit."""
    state = weight.quant_state  # pyright: ignore[reportAttributeAccessIssue]
    assert not getattr(state, "packing_format_for_cpu", False), "bitsandbytes repacked this layer, which `quantize` prevents"
    return dequantize_4bit(weight.data, state)


def plain_weight(weight: Tensor) -> Tensor:
    """What a layer multiplies with: a 4-bit weight dequantised, any other as it is."""
    return dequantized(weight) if isinstance(weight, Params4bit) else weight.detach()


def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, 4-bit ones dequantised."""
    for name, parameter in model.named_parameters():
        yield name, plain_weight(parameter)


def num_quantized(model: nn.Module) -> int:
    """How many 4-bit layers there are."""
    return sum(isinstance(module, Linear4bit) for module in model.modules())


def quantized_size(weight: nn.Parameter) -> tuple[int, int]:
    """Weights in a 4-bit parameter, and the bytes of them and their statistics."""
    state = weight.quant_state  # pyright: ignore[reportAttributeAccessIssue]
    assert state is not None, "a 4-bit weight without its statistics"
    held = [state.absmax, state.code]
    if state.state2 is not None:
        held += [state.offset, state.state2.absmax, state.state2.code]
    return math.prod(state.shape), weight.nbytes + sum(tensor.nbytes for tensor in held)


def quantized_format(model: nn.Module) -> str | None:
    """Which of `four_bits.FOUR_BITS` the 4-bit layers of a model have; None if there are none."""
    states = (module.quant_state for module in model.modules() if isinstance(module, Linear4bit))
    found = {format_of(state) for state in states if state is not None}
    assert len(found) <= 1, f"4-bit layers of several formats: {found}"
    return next(iter(found), None)
