"""What a pass takes through a model whose blocks no formula describes: it is run on tensors without memory, and counted."""

import copy
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vla_tune.adapters import training_context

type RowsLoss = Callable[[nn.Module, int], Tensor]


class Pass(NamedTuple):
    """Bytes of one pass forward and one back; weights are left out."""

    kept: int
    """What lives between the two."""
    peak: int
    """The most that lives at once, gradients among it."""


class Operations(NamedTuple):
    """Of floating-point numbers, in one pass."""

    forward: int
    both: int
    """Forward and back."""


@lru_cache(maxsize=256)
def training_pass(network: nn.Module, loss: RowsLoss, rows: int, *, autocast: bool) -> Pass:
    """Run `loss(network, rows)` forward and back, on a copy; `network` may be on the meta device.

    Raises:
        ValueError: the loss does not follow from shapes alone.
    """
    with _shapes(), _Living(_copied(network)) as living:
        made = _computed(loss, living.model, rows, autocast=autocast)
        kept = living.now
        if made.requires_grad:
            made.backward()
        return Pass(kept, living.peak)


@lru_cache(maxsize=256)
def acting_peak(network: nn.Module, loss: RowsLoss, rows: int, *, autocast: bool) -> int:
    """The most bytes that live at once in a pass forward of which nothing is kept.

    Raises:
        ValueError: the loss does not follow from shapes alone.
    """
    with _shapes(), torch.no_grad(), _Living(_copied(network)) as living:
        _computed(loss, living.model, rows, autocast=autocast)
        return living.peak


@lru_cache(maxsize=256)
def operations(network: nn.Module, loss: RowsLoss, rows: int) -> Operations:
    """Of matrix products, convolutions and attention. They are counted apart: torch's counter keeps what is computed alive.

    Raises:
        ValueError: the loss does not follow from shapes alone.
    """
    with _shapes(), FlopCounterMode(display=False) as counter:
        made = _computed(loss, _copied(network), rows, autocast=True)
        forward = counter.get_total_flops()
        if made.requires_grad:
            made.backward()
        return Operations(forward, counter.get_total_flops())


def _shapes() -> FakeTensorMode:
    """Where tensors are shapes; what has no rule for shapes is not computed with numbers instead, which would take the memory."""
    return FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)


class _Living(TorchDispatchMode):
    """Counts the bytes of tensors that live while it is entered, besides those of `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.now, self.peak = model, 0, 0
        own = [tensor.untyped_storage() for tensor in [*model.parameters(), *model.buffers()]]
        self._known = weakref.WeakValueDictionary({id(storage): storage for storage in own})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if self._known.get(id(storage)) is storage:
            return
        self._known[id(storage)] = storage
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


def _copied(network: nn.Module) -> nn.Module:
    """As it trains, with tensors of the mode that is entered in the place of its own; those shared stay shared."""
    memo: dict[int, Any] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        shape = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        memo[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
    return copy.deepcopy(network, memo).train()


def _computed(loss: RowsLoss, model: nn.Module, rows: int, *, autocast: bool) -> Tensor:
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), training_context(model) if autocast else nullcontext():
            return loss(model, rows)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ValueError(
            f"the loss of {type(model).__name__}'s outline needs values in {error.func}, where a plan has shapes only: compute it "
            "without choosing elements by a mask, without .item() and without operators that torch has no shapes for."
        ) from None
