"""The format of the frozen weights (float32, bfloat16, or 4 bits), and the attention kernel that suits it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bitsandbytes.nn.modules import Params4bit
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from vla_tune.models.files import places
from vla_tune.models.four_bits import FOUR_BITS, format_of
from vla_tune.models.nf4 import num_quantized, quantized_format, quantized_size

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16} | dict.fromkeys(FOUR_BITS, torch.bfloat16)
FORMATS = tuple(_DTYPES)
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2")


def weight_dtype(base: str) -> torch.dtype:
    """The dtype of the weights that are not 4-bit.

    Raises:
        ValueError: `base` is no format.
    """
    if base not in _DTYPES:
        raise ValueError(f"base={base!r} is no weight format: choose one of {', '.join(FORMATS)}.")
    return _DTYPES[base]


def check_format(base: str, device: torch.device | str) -> None:
    """Refuse a format that `device` cannot compute in.

    Raises:
        ValueError: `base` is no format, or fp16 on a CPU.
    """
    weight_dtype(base)
    if base == "fp16" and torch.device(device).type == "cpu":
        raise ValueError("base=fp16 is refused on a CPU, which multiplies it 400 times slower than bf16: use bf16 or fp32.")


def weight_format(model: nn.Module) -> str:
    """Which of `FORMATS` the frozen weights of `model` have.

    Raises:
        ValueError: they are of several dtypes, so no format describes them.
    """
    if (four_bits := quantized_format(model)) is not None:
        return four_bits
    dtypes = {parameter.dtype for parameter in model.parameters()}
    for base in ("fp32", "bf16", "fp16"):
        if dtypes == {_DTYPES[base]}:
            return base
    raise ValueError(f"the weights are of {sorted(map(str, dtypes))}: load the base again in one of {', '.join(FORMATS)}.")


def stored_format(folder: Path) -> str:
    """The format in which a checkpoint that was written whole is loaded: fp32 where every weight in its files is, else bf16.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: a file is damaged.
    """
    opened = places(folder)
    return "fp32" if all(file.get_slice(name).get_dtype() == "F32" for name, file in opened.items()) else "bf16"


def cast(model: nn.Module, base: str, device: torch.device | str) -> None:
    """Give every weight that is not 4-bit the dtype of `base`, on `device`, one after the other and in place."""
    dtype = weight_dtype(base)
    for parameter in model.parameters():
        if not isinstance(parameter, Params4bit):
            parameter.data = parameter.data.to(device, dtype)
    nn.Module.to(model, device)  # buffers keep their dtype


def choose_attention(model: nn.Module, device: torch.device | str, attention: str = "auto") -> str:
    """Set the attention kernel of the language model and the vision towers, in place; returns its name.

    `auto` is `eager` on a CPU, where the fused kernel takes 2 to 3 times as long in bfloat16 and as long in float32; else `sdpa`.

    Raises:
        ValueError: `attention` is unknown, or its package is not installed.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention={attention!r}: choose one of {', '.join(ATTENTIONS)}.")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ValueError("attention=flash_attention_2 needs a GPU and the package flash-attn: install it, or choose sdpa.")
    chosen = {"auto": "eager" if torch.device(device).type == "cpu" else "sdpa"}.get(attention, attention)
    set_attention(model, chosen)
    return chosen


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
    modules: int
    """That hold weights."""
    modules_4bit: int
    parameters: int
    bytes_: int
    formats: Mapping[str, int]
    """Format -> parameters in it."""


def weight_report(model: nn.Module) -> tuple[TowerWeights, ...]:
    """What lies in memory, tower by tower."""
    return tuple(_tower(name, child) for name, child in model.named_children())


def report_text(towers: Sequence[TowerWeights]) -> str:
    """One line for each tower, and the sum."""
    lines = [
        f"{tower.name}: {tower.modules} modules ({tower.modules_4bit} in 4 bits), {tower.parameters:,} parameters, "
        f"{tower.bytes_ / 1e6:,.1f} MB, " + ", ".join(f"{count:,} in {name}" for name, count in tower.formats.items())
        for tower in towers
    ]
    parameters, size = sum(tower.parameters for tower in towers), sum(tower.bytes_ for tower in towers)
    return "\n".join([*lines, f"total: {parameters:,} parameters, {size / 1e6:,.1f} MB"])


def num_parameters(model: nn.Module) -> int:
    """Parameters, a 4-bit one counted as one."""
    return sum(tower.parameters for tower in weight_report(model))


def _tower(name: str, module: nn.Module) -> TowerWeights:
    formats: Counter[str] = Counter()
    size = 0
    for parameter in module.parameters():
        if isinstance(parameter, Params4bit):
            count, held = quantized_size(parameter)
            name_of = format_of(parameter.quant_state)
        else:
            count, held, name_of = parameter.numel(), parameter.nbytes, str(parameter.dtype).removeprefix("torch.")
        formats[name_of] += count
        size += held
    holders = sum(bool(child._parameters) for child in module.modules())
    return TowerWeights(name, holders, num_quantized(module), sum(formats.values()), size, dict(formats))
