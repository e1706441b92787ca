"""Several adapters over one base in memory: chosen row by row, added and removed without loading the base again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vla_tune.adapters.base import Adapter, adapted_layer, check_base
from vla_tune.adapters.branches import Branch, LinearMap, LowRankBranch, Stack
from vla_tune.adapters.changes import LowRank

BASE = "base"
"""The name under which rows ask for no adapter."""


@runtime_checkable
class Branching(Protocol):
    """An adapter that works beside single layers without being a change of their weights."""

    def branches(self, folder: Path, *, base_hash: str) -> Mapping[str, Branch]:
        """What it does beside each layer, by the layer's name.

        Raises:
            ValueError: it belongs to another base, or a tensor is missing, left over or of another shape.
        """
        ...


class AdapterBank:
    """The adapters that share a model; outside of `chosen`, the model is its base.

    Layers that an adapter changes are wrapped once. What a row gives does not depend on the adapters of other rows: all rows go
    through one product, each with its own factors, filled up with zeros to the largest rank. (Rounding can differ in the last
    bits from the same adapter attached alone, and between banks of different largest rank.)

    Raises:
        ValueError: the model carries an adapter already.
    """

    def __init__(self, model: nn.Module, *, base_hash: str) -> None:
        if any(adapted_layer(name) for name, _ in model.named_parameters()):
            raise ValueError("the model carries an adapter: load the base afresh, then add adapters.")
        self._model, self._base_hash = model, base_hash
        self._adapters: dict[str, dict[str, Branch]] = {}
        self._choice = _Choice()

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that rows can ask for, beside `base`."""
        return tuple(self._adapters)

    def add(self, name: str, adapter: Adapter, folder: Path) -> None:
        """Read an adapter's files and make it available; one of the same name is replaced. All or nothing.

        Raises:
            ValueError: its method cannot share a base row by row, it was trained over another base or another format of it, or
                it names layers that the model does not have.
        """
        if name == BASE or not name:
            raise ValueError(f"adapter name {name!r}: any word but {BASE!r}, which asks for no adapter.")
        check_base(self._model, adapter.base)
        branches = _branches(self._model, adapter, folder, base_hash=self._base_hash)
        self._rebuild(self._adapters | {name: branches})

    def remove(self, name: str) -> None:
        """Take an adapter away; its memory is free again.

        Raises:
            ValueError: there is none of this name.
        """
        self._check([name])
        self._rebuild({other: branches for other, branches in self._adapters.items() if other != name})

    @contextmanager
    def chosen(self, names: Sequence[str]) -> Iterator[None]:
        """In this context, row i of every batch goes through adapter `names[i]`; `base` asks for none.

        Raises:
            ValueError: there is no adapter of one of the names.
        """
        self._check([name for name in names if name != BASE])
        number = {BASE: 0} | {name: index for index, name in enumerate(self._adapters, start=1)}
        device = next(self._model.parameters()).device
        self._choice.numbers = torch.tensor([number[name] for name in names], device=device) if set(names) != {BASE} else None
        try:
            yield
        finally:
            self._choice.numbers = None

    def _check(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._adapters]
        if unknown:
            raise ValueError(f"adapter {unknown[0]!r}: loaded are {', '.join([BASE, *self._adapters])}.")

    def _rebuild(self, adapters: dict[str, dict[str, Branch]]) -> None:
        """Stacks for every layer that any of `adapters` changes; layers that none changes are unwrapped."""
        layers = dict.fromkeys(layer for branches in adapters.values() for layer in branches)
        stacks = {layer: _stacks([branches.get(layer) for branches in adapters.values()]) for layer in layers}
        for layer in {layer for branches in self._adapters.values() for layer in branches} - stacks.keys():
            _put(self._model, layer, _base_layer(self._model, layer))
        for layer, made in stacks.items():
            _put(self._model, layer, Branched(_base_layer(self._model, layer), made, self._choice))
        self._adapters = adapters


class Branched(nn.Module):
    """A layer with what the adapters of a bank do beside it."""

    def __init__(self, base_layer: LinearMap, stacks: Sequence[Stack], choice: "_Choice") -> None:
        super().__init__()
        self.base_layer: LinearMap = base_layer
        self._stacks, self._choice = stacks, choice
        self.training = base_layer.training

    @property
    def weight(self) -> Tensor:
        """Of the base."""
        return self.base_layer.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the base, each row changed by the adapter that was chosen for it."""
        outputs, numbers = self.base_layer(inputs), self._choice.numbers
        if numbers is None:
            return outputs
        for stack in self._stacks:
            outputs = stack(self.base_layer, inputs, outputs, numbers)
        return outputs


class _Choice:
    """The adapter of each row, where a forward pass runs."""

    numbers: Int[Tensor, " B"] | None = None


def _branches(model: nn.Module, adapter: Adapter, folder: Path, *, base_hash: str) -> dict[str, Branch]:
    if isinstance(adapter, Branching):
        return dict(adapter.branches(folder, base_hash=base_hash))
    changes = adapter.changes(folder, base_hash=base_hash)
    low_rank = {name: change for name, change in changes.items() if isinstance(change, LowRank)}
    if others := changes.keys() - low_rank.keys():
        raise ValueError(
            f"{folder} holds {min(others)} learned in full: that replaces a weight of the base for every row. "
            "Adapters that share a base must be LoRA or bottleneck ones; load this run alone."
        )
    layers = {name: name.removesuffix(".weight") for name in low_rank}
    return {layer: LowRankBranch.of(low_rank[name], _base_layer(model, layer)) for name, layer in layers.items()}


def _stacks(branches: Sequence[Branch | None]) -> list[Stack]:
    """One stack for each kind of branch."""
    kinds = dict.fromkeys(type(branch) for branch in branches if branch is not None)
    return [kind.stack([branch if type(branch) is kind else None for branch in branches]) for kind in kinds]


def _base_layer(model: nn.Module, name: str) -> LinearMap:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the adapter changes {name}, which the model does not have: use the base of its training run.") from None
    layer = layer.base_layer if isinstance(layer, Branched) else layer
    assert isinstance(layer, nn.Linear | nn.Conv2d), f"{name} is a {type(layer).__name__}, which no adapter could be beside"
    return layer


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)
