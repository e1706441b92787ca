"""Several adapters beside one layer: every row of a batch goes through its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vla_tune.adapters.changes import LowRank
from vla_tune.models.nf4 import plain_weight

type LinearMap = nn.Linear | nn.Conv2d
"""A layer beside which there can be a branch."""


@runtime_checkable
class Stack(Protocol):
    """What several adapters do beside one layer; number 0 does nothing."""

    def __call__(self, layer: LinearMap, inputs: Tensor, outputs: Tensor, numbers: Int[Tensor, " B"]) -> Tensor:
        """The outputs of `layer`, each row of the batch changed by the adapter of its number.

        The first dimension of `inputs` and `outputs` is B times views or positions, row by row.
        """
        ...


@runtime_checkable
class Branch(Protocol):
    """What one adapter does beside one layer."""

    @classmethod
    def stack(cls, branches: Sequence[Any]) -> Stack:
        """Adapters 1, 2, ... of this kind in one; None is an adapter that leaves this layer alone."""
        ...


@dataclass(frozen=True, eq=False)
class LowRankBranch:
    """s B A beside W; with a ratio, each output of W + s B A times its own (DoRA)."""

    up: Float[Tensor, "out rank"]
    """B."""
    down: Float[Tensor, "rank in"]
    """A; of a convolution, over channels and kernel."""
    scaling: float
    """s."""
    ratio: Float[Tensor, " out"]
    """m / |W + s B A| of DoRA; else ones."""

    @classmethod
    def of(cls, change: LowRank, layer: LinearMap) -> "LowRankBranch":
        """The branch that does to the outputs of `layer` what `change` does to its weight."""
        device = layer.weight.device
        up, down = (factor.flatten(1).float().to(device) for factor in (change.up, change.down))
        ratio = torch.ones(len(up), device=device)
        if change.magnitude is not None:
            weight = plain_weight(layer.weight).float().flatten(1)
            ratio = change.magnitude.to(device) / (weight + change.scaling * (up @ down)).norm(dim=1)
        return cls(up, down, change.scaling, ratio)

    @classmethod
    def stack(cls, branches: Sequence["LowRankBranch | None"]) -> Stack:
        """All of them at the largest rank, filled up with zeros."""
        given = [branch for branch in branches if branch is not None]
        rank, device = max(len(branch.down) for branch in given), given[0].up.device
        up = torch.zeros(len(branches) + 1, len(given[0].up), rank, device=device)
        down = torch.zeros(len(branches) + 1, rank, given[0].down.shape[1], device=device)
        scaling, ratio = torch.zeros(len(branches) + 1, device=device), torch.ones(up.shape[:2], device=device)
        for number, branch in enumerate(branches, start=1):
            if branch is not None:
                up[number, :, : len(branch.down)], down[number, : len(branch.down)] = branch.up, branch.down
                scaling[number], ratio[number] = branch.scaling, branch.ratio
        return _LowRankStack(up, down, scaling, ratio if (ratio != 1).any() else None)


@dataclass(frozen=True, eq=False)
class _LowRankStack:
    up: Float[Tensor, "N out rank"]
    down: Float[Tensor, "N rank in"]
    scaling: Float[Tensor, " N"]
    ratio: Float[Tensor, "N out"] | None

    def __call__(self, layer: LinearMap, inputs: Tensor, outputs: Tensor, numbers: Int[Tensor, " B"]) -> Tensor:
        read = _positions(inputs if isinstance(layer, nn.Linear) else _patches(layer, inputs), len(numbers))
        update = _product(_product(read, self.down[numbers]), self.up[numbers]) * self.scaling[numbers, None, None]
        if self.ratio is not None:
            given = _positions(outputs if isinstance(layer, nn.Linear) else outputs.flatten(2).mT, len(numbers))
            ratio, bias = self.ratio[numbers, None], 0.0 if layer.bias is None else layer.bias
            update = (ratio - 1) * (given - bias) + ratio * update
        if not isinstance(layer, nn.Linear):
            update = update.reshape(len(outputs), -1, outputs.shape[1]).mT
        return (outputs + update.reshape(outputs.shape)).to(outputs.dtype)


def _positions(values: Tensor, count: int) -> Float[Tensor, "B n features"]:
    return values.reshape(count, -1, values.shape[-1])


def _patches(layer: nn.Conv2d, inputs: Float[Tensor, "b in H W"]) -> Float[Tensor, "b n patch"]:
    """What a convolution multiplies with, at each place."""
    return F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT  # pyright: ignore[reportArgumentType]


def _product(values: Float[Tensor, "B n in"], weights: Float[Tensor, "B out in"]) -> Float[Tensor, "B n out"]:
    return in_autocast_or_float32(values) @ weights.mT


def in_autocast_or_float32(values: Tensor) -> Tensor:
    """Ready to be multiplied with float32 weights: inside an autocast, which rounds both to its own precision, as it is."""
    return values if torch.is_autocast_enabled(values.device.type) else values.float()
