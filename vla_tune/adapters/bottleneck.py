"""Bottleneck adapters: small networks behind the two output projections of every block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vla_tune.adapters.base import AdapterReport, check_base, report
from vla_tune.adapters.branches import LinearMap, Stack, in_autocast_or_float32
from vla_tune.adapters.changes import Changes
from vla_tune.adapters.files import open_tensors_of, read_tensors, write_tensors
from vla_tune.adapters.targets import learn_only, learned_within, target_names
from vla_tune.models.precision import weight_dtype

WEIGHTS_FILE = "bottleneck.safetensors"
_CHILD = "bottleneck"
_DEVIATION = 0.01
"""Of the first weights (§3.6)."""


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """h + U gelu(D h + d) + u behind a layer's output h, serially, before the residual is added (arXiv 1902.00751, §2.1).

    D is drawn from a normal distribution of deviation 0.01, cut at two of them; U, u and d are zero, so the outputs are exactly
    those of the base at first (the paper draws U as well). The norms of the blocks stay frozen (the paper trains them).
    """

    size: int
    """m, the width of the bottleneck."""
    targets: Sequence[str] = ("o_proj", "down_proj")
    """Patterns of the layers behind which a network stands (`models.patterns`)."""
    base: str = "bf16"
    towers: Sequence[str] = ("language_model",)
    """Children of the model in which the targets lie."""

    def __post_init__(self) -> None:
        weight_dtype(self.base)
        if self.size < 1:
            raise ValueError(f"size={self.size}: a bottleneck is at least 1 wide, e.g. 64.")

    def attach(self, model: nn.Module) -> AdapterReport:
        """Freeze the model and put a network behind each target, in place; the first weights come from torch's generator."""
        if any(isinstance(module, BottleneckNetwork) for module in model.modules()):
            raise ValueError("the model carries a bottleneck adapter already: load the base again.")
        check_base(model, self.base)
        names = target_names(model, self.targets, self.towers)
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear), f"{name} is a {type(layer).__name__}: a bottleneck stands behind linear layers"
            layer.add_module(_CHILD, BottleneckNetwork(layer.out_features, self.size, device=layer.weight.device))
            layer.register_forward_hook(_behind)
        learn_only(model, _CHILD)
        return report(model)

    def stored(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that learn, by their names in the model."""
        return learned_within(model, _CHILD)

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Write the networks, float32, as `bottleneck.safetensors`."""
        write_tensors(folder / WEIGHTS_FILE, self.stored(model), base=self.base, base_hash=base_hash)

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read the networks into `model`, strictly."""
        read_tensors(folder / WEIGHTS_FILE, self.stored(model), base=self.base, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{folder} holds a bottleneck adapter, which is not linear in its input: no weights of the base do what it does. "
            "Run base and adapter together; the run's folder is all that is needed."
        )

    def branches(self, folder: Path, *, base_hash: str) -> Mapping[str, "BottleneckBranch"]:
        """What stands behind each layer, from the file."""
        tensors = open_tensors_of(folder / WEIGHTS_FILE, base=self.base, base_hash=base_hash)
        others = [name for name in tensors if f".{_CHILD}." not in name]
        if others:
            raise ValueError(f"{folder}: {others[0]} learned in full, which rows of one batch cannot have of their own.")
        layers = dict.fromkeys(name.partition(f".{_CHILD}.")[0] for name in tensors)
        parts = ("down.weight", "down.bias", "up.weight", "up.bias")
        return {layer: BottleneckBranch(*(tensors[f"{layer}.{_CHILD}.{part}"] for part in parts)) for layer in layers}


class BottleneckNetwork(nn.Module):
    """h -> h + U gelu(D h + d) + u, all float32 but h."""

    def __init__(self, width: int, size: int, *, device: torch.device) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size, device=device), nn.Linear(size, width, device=device)
        nn.init.trunc_normal_(self.down.weight, std=_DEVIATION, a=-2 * _DEVIATION, b=2 * _DEVIATION)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, hidden: Float[Tensor, "*b width"]) -> Float[Tensor, "*b width"]:
        """The changed output, in the dtype of `hidden`."""
        return hidden + self.up(F.gelu(self.down(in_autocast_or_float32(hidden)))).to(hidden.dtype)


@dataclass(frozen=True, eq=False)
class BottleneckBranch:
    """One such network, for a bank of adapters."""

    down: Float[Tensor, "size width"]
    down_bias: Float[Tensor, " size"]
    up: Float[Tensor, "width size"]
    up_bias: Float[Tensor, " width"]

    @classmethod
    def stack(cls, branches: Sequence["BottleneckBranch | None"]) -> Stack:
        """All of them at the largest width, filled up with zeros; gelu(0) is 0."""
        given = [branch for branch in branches if branch is not None]
        count, size, width = len(branches) + 1, max(len(branch.down) for branch in given), given[0].down.shape[1]
        down, down_bias = torch.zeros(count, size, width), torch.zeros(count, size)
        up, up_bias = torch.zeros(count, width, size), torch.zeros(count, width)
        for number, branch in enumerate(branches, start=1):
            if branch is not None:
                own = len(branch.down)
                down[number, :own], down_bias[number, :own] = branch.down, branch.down_bias
                up[number, :, :own], up_bias[number] = branch.up, branch.up_bias
        return _BottleneckStack(down, down_bias, up, up_bias)


@dataclass(eq=False)
class _BottleneckStack:
    down: Float[Tensor, "N size width"]
    down_bias: Float[Tensor, "N size"]
    up: Float[Tensor, "N width size"]
    up_bias: Float[Tensor, "N width"]

    def __call__(self, layer: LinearMap, inputs: Tensor, outputs: Tensor, numbers: Int[Tensor, " B"]) -> Tensor:
        self._follow(outputs.device)
        hidden = in_autocast_or_float32(outputs.reshape(len(numbers), -1, outputs.shape[-1]))
        inner = F.gelu(hidden @ self.down[numbers].mT + self.down_bias[numbers, None])
        update = inner @ self.up[numbers].mT + self.up_bias[numbers, None]
        return outputs + update.reshape(outputs.shape).to(outputs.dtype)

    def _follow(self, device: torch.device) -> None:
        """Files are read on the CPU; the model may be elsewhere."""
        if self.down.device != device:
            self.down, self.down_bias = self.down.to(device), self.down_bias.to(device)
            self.up, self.up_bias = self.up.to(device), self.up_bias.to(device)


def _behind(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook."""
    return layer.get_submodule(_CHILD)(output)
