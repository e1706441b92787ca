"""PiSSA: LoRA that begins with the largest singular vectors of W."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from vla_tune.adapters.base import AdapterReport, report
from vla_tune.adapters.files import read_tensors
from vla_tune.adapters.lora import NAME, Lora, factor, layers
from vla_tune.adapters.lora_file import PREFIX, WEIGHTS_FILE
from vla_tune.models.nf4 import plain_weight

_INITIAL = "initial"
_ITERATIONS = 4
"""Of the subspace iteration that finds the singular vectors."""


@dataclass(frozen=True, kw_only=True)
class Pissa(Lora):
    """W + s (B A - B0 A0), where s B0 A0 is the best approximation of W of this rank and B A begins there (arXiv 2404.02948, §3).

    The paper moves s B0 A0 out of W. Here W stays what it is, and A0 and -B0 are frozen beside it: a 4-bit W could not give
    anything up without being rounded anew, and the next adapter would find a changed base. A saved adapter is plain LoRA of twice
    the rank over the original base, `[B, -B0] [A; A0]`. At initialisation the outputs are those of the base up to rounding.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout:
            raise ValueError(f"dropout={self.dropout}: B A and B0 A0 would drop different inputs and not cancel; PiSSA has none.")

    def attach(self, model: nn.Module) -> AdapterReport:
        """Freeze the model and insert LoRA layers that begin with the largest singular vectors, in place."""
        super().attach(model)
        names = [name for name, _ in layers(model)]
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # two adapters are meant
            inject_adapter_in_model(self._peft_config(names), model, adapter_name=_INITIAL)
        for _, layer in layers(model):
            layer.set_adapter([NAME, _INITIAL])
            _begin(layer)
        return report(model)

    def stored(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that learn, under the names of peft's files."""
        return {name: parameter for name, parameter in super().stored(model).items() if f".{_INITIAL}." not in name}

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read a saved adapter into `model`, strictly; where it began is read with it."""
        self._check_config(folder, model)
        tensors = self._in_file(model)
        read_tensors(folder / WEIGHTS_FILE, tensors, base=self.base, base_hash=base_hash)
        initial = _initial(model)
        with torch.no_grad():
            for name, parameter in self.stored(model).items():
                if name in initial:
                    learned, frozen = tensors[name].chunk(2, dim=_rank_dimension(name))
                    parameter.copy_(learned)
                    initial[name].copy_(frozen)
                else:
                    parameter.copy_(tensors[name])

    def _in_file(self, model: nn.Module) -> dict[str, Tensor]:
        initial = _initial(model)
        return {
            name: torch.cat([parameter.detach(), initial[name]], dim=_rank_dimension(name)) if name in initial else parameter
            for name, parameter in self.stored(model).items()
        }

    def _peft_config_in_file(self, names: Sequence[str]) -> LoraConfig:
        """Twice the rank with the same factor before B A."""
        config = self._peft_config(names)
        alpha = math.sqrt(2) if config.use_rslora else 2
        return replace(
            config,
            r=2 * config.r,
            lora_alpha=alpha * config.lora_alpha,  # pyright: ignore[reportArgumentType]
            rank_pattern={name: 2 * rank for name, rank in (config.rank_pattern or {}).items()},
            alpha_pattern={name: alpha * own for name, own in (config.alpha_pattern or {}).items()},
        )


def _begin(layer: LoraLayer) -> None:
    """A = A0, B = B0 and the frozen -B0 beside them, float32."""
    learned = [factor(part, NAME).weight for part in (layer.lora_A, layer.lora_B)]
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    if not weight.is_meta:  # an outline has shapes only
        for parameter, value in zip(learned, _largest(weight, rank=len(learned[0]), scaling=layer.scaling[NAME]), strict=True):
            parameter.data.copy_(value.reshape(parameter.shape))
    down, up = learned
    factor(layer.lora_A, _INITIAL).weight = nn.Parameter(down.detach().clone(), requires_grad=False)
    factor(layer.lora_B, _INITIAL).weight = nn.Parameter(-up.detach(), requires_grad=False)


def _largest(weight: Tensor, *, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A0 and B0 of a weight."""
    matrix = plain_weight(weight).float().flatten(1)
    if rank > min(matrix.shape):
        raise ValueError(f"rank={rank}: a weight of shape {tuple(matrix.shape)} has {min(matrix.shape)} singular vectors at most.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a resumed run finds the same vectors
        left, values, right = torch.svd_lowrank(matrix, q=rank, niter=_ITERATIONS)
    return values.sqrt()[:, None] * right.mT, left * values.sqrt() / scaling


def _initial(model: nn.Module) -> dict[str, nn.Parameter]:
    """A0 and -B0, each under the name of what learns beside it."""
    part = f".{_INITIAL}."
    return {PREFIX + name.replace(part, "."): own for name, own in model.named_parameters() if ".lora_" in name and part in name}


def _rank_dimension(name: str) -> int:
    return 0 if ".lora_A." in name else 1
