"""A model on the meta device -> what a plan must know of it: parameters, linear layers, blocks."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from vla_tune.adapters.base import Adapter
from vla_tune.models.base import Outline
from vla_tune.models.four_bits import FOUR_BITS
from vla_tune.models.openvla.action_head import ActionHead
from vla_tune.models.patterns import matching_names
from vla_tune.models.precision import weight_dtype
from vla_tune.plan.activations import Block, DecoderBlock, Reader, Stack, VisionBlock
from vla_tune.plan.arithmetic import four_bit_bytes

_DECODER = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
_DECODER |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_VISION = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_STACK = ("fc1", "fc2", "fc3")


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One child of the model."""

    name: str
    parameters: int
    """Of the base."""
    trainable: int
    """Those of an adapter included."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A block or a linear layer, and what runs through it."""

    name: str
    inside: str | None
    """The module of the outline whose tokens it sees; None is the language model, which sees the whole sequence."""


@dataclass(frozen=True, kw_only=True)
class PlacedBlock(Placed):
    """A block."""

    block: Block
    parameters: int


@dataclass(frozen=True, kw_only=True)
class PlacedLinear(Placed):
    """A linear layer."""

    reader: Reader


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model with an adapter attached; everything that memory and time depend on."""

    outline: Outline
    base: str
    """Format of the frozen weights."""
    towers: tuple[Tower, ...]
    weight_bytes: int
    """Of the base."""
    adapter_parameters: int
    adapter_bytes: int
    """Of what an adapter adds; it learns."""
    trainable: int
    """Parameters that learn, those that never get a gradient included."""
    reached: tuple[torch.nn.Parameter, ...]
    """Parameters that get a gradient."""
    quantized: int
    """Weights in 4 bits."""
    largest_quantized: int
    blocks: tuple[PlacedBlock, ...]
    """In the order in which they run."""
    linears: tuple[PlacedLinear, ...]
    head: Reader
    """The vocabulary; where no layer speaks one, it has no outputs."""
    final_norm_learns: bool
    uncounted: tuple[str, ...]
    """Children of the model whose linear layers learn in blocks of a kind that is not known here: their activations are missing.

    None is, where the outline tells how to compute a loss.
    """

    @property
    def base_parameters(self) -> int:
        """Of the base."""
        return sum(tower.parameters for tower in self.towers)

    @property
    def total(self) -> int:
        """All parameters, those of the adapter included."""
        return self.base_parameters + self.adapter_parameters

    @property
    def gradient_bytes(self) -> int:
        """Of all parameters that get one."""
        return sum(parameter.nbytes for parameter in self.reached)


def architecture(outline: Outline, adapter: Adapter) -> Architecture:
    """Attach `adapter` to the outline's model, in place, and describe the result.

    4-bit weights cannot lie on the meta device: the base is bfloat16 there, and the bytes of what `models.nf4.quantize` would
    take are counted by their formula.

    Raises:
        ValueError: what the adapter computes is of a kind whose memory is not known.
    """
    model = outline.model
    model.to(weight_dtype(adapter.base))
    base_names = {name for name, _ in model.named_parameters()}
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    in_4bit = set(matching_names(linears, outline.nf4_targets)) if adapter.base in FOUR_BITS else set()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    parameters_of = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    attached = replace(cast(Any, adapter), base="bf16") if adapter.base in FOUR_BITS else adapter
    with torch.device("meta"):
        attached.attach(model)
    own, added = _split(model, base_names)
    if outline.loss is None:
        _refuse_unknown(added, adapter)
    kept = {name: parameter for name, parameter in own.items() if name.removesuffix(".weight") not in in_4bit}
    quantized = [sizes[f"{name}.weight"] for name in in_4bit]
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    blocks, readers = tuple(_blocks(model, outline)), tuple(_linears(model, outline))
    return Architecture(
        outline=outline,
        base=adapter.base,
        towers=tuple(
            Tower(name=name, parameters=count, trainable=_count(learning, below=name)) for name, count in parameters_of.items()
        ),
        weight_bytes=sum(parameter.nbytes for parameter in kept.values()) + _quantized_bytes(quantized, adapter.base),
        adapter_parameters=sum(parameter.numel() for parameter in added.values()),
        adapter_bytes=sum(parameter.nbytes for parameter in added.values()),
        trainable=sum(parameter.numel() for parameter in learning.values()),
        reached=tuple(parameter for name, parameter in learning.items() if not _below(name, outline.unreached)),
        quantized=sum(quantized),
        largest_quantized=max(quantized, default=0),
        blocks=blocks,
        linears=readers,
        head=Reader(inputs=_width(blocks), outputs=0) if outline.head is None else _reader(model.get_submodule(outline.head)),
        final_norm_learns=_final_norm_learns(learning),
        uncounted=_uncounted(blocks, readers) if outline.loss is None else (),
    )


def _split(model: nn.Module, base_names: set[str]) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The base's parameters under the names that they had before an adapter wrapped them, and what the adapter added."""
    own: dict[str, nn.Parameter] = {}
    added: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        before = name.replace(".base_layer.", ".")
        (own if before in base_names else added)[before] = parameter
    assert own.keys() == base_names, "an adapter took parameters of the base away"
    return own, added


def _quantized_bytes(sizes: Sequence[int], base: str) -> int:
    return sum(four_bit_bytes(size, double=FOUR_BITS[base].double) for size in sizes)


def _refuse_unknown(added: Iterable[str], adapter: Adapter) -> None:
    """Counting the wrong thing would be worse than no plan."""
    unknown = [name for name in added if ".lora_A." not in name and ".lora_B." not in name]
    if unknown:
        raise ValueError(
            f"{unknown[0]}: the memory of {type(adapter).__name__} adapters is not known; a plan counts full fine-tuning and LoRA "
            "with a factor before B A. Plan adapter=lora_r16 as a first guess, and measure a few steps."
        )


def _uncounted(blocks: Sequence[PlacedBlock], linears: Sequence[PlacedLinear]) -> tuple[str, ...]:
    known = [block.name for block in blocks]
    missed = [linear.name for linear in linears if linear.reader.changes and not _below(linear.name, known)]
    return tuple(dict.fromkeys(name.split(".")[0] for name in missed if not name.startswith("action_rows")))


def _width(blocks: Sequence[PlacedBlock]) -> int:
    """Of the sequence that leaves the last block."""
    return next((placed.block.width for placed in reversed(blocks) if placed.inside is None), 0)


def _count(parameters: Mapping[str, nn.Parameter], *, below: str) -> int:
    return sum(parameter.numel() for name, parameter in parameters.items() if _below(name, [below]))


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _inside(name: str, outline: Outline) -> str | None:
    return next((module for module in outline.tokens if _below(name, [module])), None)


def _final_norm_learns(learning: Mapping[str, nn.Parameter]) -> bool:
    return any(re.fullmatch(r"language_model(\.model)?\.norm\.weight", name) for name in learning)


def _reader(module: nn.Module) -> Reader:
    """A linear layer, as it is or inside a LoRA layer of peft's."""
    linear = cast(nn.Module, getattr(module, "base_layer", module))
    assert isinstance(linear, nn.Linear)
    down = cast(Mapping[str, nn.Linear], getattr(module, "lora_A", {}))
    drops = cast(Mapping[str, nn.Module], getattr(module, "lora_dropout", {}))
    return Reader(
        inputs=linear.in_features,
        outputs=linear.out_features,
        learns=linear.weight.requires_grad,
        rank=sum(part.out_features for part in down.values()),
        dropout=any(isinstance(part, nn.Dropout) and part.p > 0 for part in drops.values()),
    )


def _linears(model: nn.Module, outline: Outline) -> Iterator[PlacedLinear]:
    """Every linear layer of the base but the vocabulary's head, and those that no output depends on."""
    modules = dict(model.named_modules())
    adapted = {id(module) for module in modules.values() if hasattr(module, "lora_A")}
    for name, module in modules.items():
        wrapped = isinstance(getattr(module, "base_layer", None), nn.Linear)
        part_of_lora = ".base_layer" in name or ".lora_" in name
        if name == outline.head or part_of_lora or _below(name, outline.unreached):
            continue
        if (wrapped and id(module) in adapted) or isinstance(module, nn.Linear):
            yield PlacedLinear(name=name, inside=_inside(name, outline), reader=_reader(module))


def _blocks(model: nn.Module, outline: Outline) -> Iterator[PlacedBlock]:
    for name, module in model.named_modules():
        if _below(name, outline.unreached):
            continue
        block = _decoder(module) or _vision(module) or _stack(module, name, outline) or _residual_head(module)
        if block is not None:
            count = sum(parameter.numel() for parameter in module.parameters())
            yield PlacedBlock(name=name, inside=_inside(name, outline), block=block, parameters=count)


def _parts(module: nn.Module, names: Mapping[str, str]) -> dict[str, nn.Module] | None:
    """The named parts, or None where one is missing."""
    found = {key: _part(module, path) for key, path in names.items()}
    parts = {key: part for key, part in found.items() if part is not None}
    return parts if len(parts) == len(names) else None


def _part(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = cast(nn.Module, getattr(module, name, None))
        if not isinstance(module, nn.Module):
            return None
    return module


def _decoder(module: nn.Module) -> DecoderBlock | None:
    parts = _parts(module, _DECODER)
    if parts is None:
        return None
    readers = {key: _reader(part) for key, part in parts.items()}
    attention = cast(Any, module).self_attn
    return DecoderBlock(
        **readers, heads=readers["q"].outputs // int(attention.head_dim), norms_learn=_learns_beside(module, parts.values())
    )


def _vision(module: nn.Module) -> VisionBlock | None:
    parts = _parts(module, _VISION)
    if parts is None:
        return None
    scales = [part for part in (_part(module, "ls1"), _part(module, "ls2")) if part is not None]
    film = [part for part in (_part(module, "scale"), _part(module, "shift")) if part is not None]
    return VisionBlock(
        **{key: _reader(part) for key, part in parts.items()},
        heads=int(cast(Any, module).attn.num_heads),
        norms_learn=_learns_beside(module, [*parts.values(), *scales, *film]),
        scales_learn=any(parameter.requires_grad for part in scales for parameter in part.parameters()),
        modulated=any(parameter.requires_grad for part in film for parameter in part.parameters()),
    )


def _stack(module: nn.Module, name: str, outline: Outline) -> Stack | None:
    if name not in outline.tokens:
        return None
    layers = [part for part in (_part(module, layer) for layer in _STACK) if part is not None]
    return Stack(layers=tuple(map(_reader, layers)), biases_learn=_learns_beside(module, layers)) if layers else None


def _residual_head(module: nn.Module) -> Stack | None:
    """fc2 of norm of (u + relu(linear of norm u)), repeated, where u = relu(fc1 of norm x): a norm in front of each layer."""
    if not isinstance(module, ActionHead):
        return None
    layers = tuple(_reader(part) for part in module.modules() if isinstance(part, nn.Linear))
    return Stack(layers=layers, norms=tuple(layer.inputs for layer in layers))


def _learns_beside(module: nn.Module, parts: Any) -> bool:
    """Whether parameters outside `parts` learn."""
    inside = {id(parameter) for part in parts for parameter in part.parameters()}
    return any(parameter.requires_grad and id(parameter) not in inside for parameter in module.parameters())
