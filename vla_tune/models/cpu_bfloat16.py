"""Products of bfloat16 matrices on a CPU that has no instructions for them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
    _aten.convolution_backward.default,
    # Inference mode shows these whole; elsewhere they are made of those above.
    _aten.linear.default,
    _aten.matmul.default,
    _aten.conv2d.default,
}


def quick_bfloat16(device: torch.device | str) -> AbstractContextManager[Any]:
    """Inside, products of bfloat16 on `device` are computed in float32 and rounded once, where its own are slow.

    That is what the instructions of newer CPUs do, up to the order of a sum. Without them torch 2.11 multiplies element by element:
    forwards and backwards through a linear layer took 37 times as long on an AMD EPYC with AVX2 alone. The context belongs to its
    thread and holds a backward pass that runs in it too.
    """
    slow = torch.device(device).type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return InFloat32() if slow else nullcontext()


class InFloat32(TorchDispatchMode):
    """Widens what is multiplied and rounds the product."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        if func not in _PRODUCTS or not any(map(_is_bfloat16, args)):
            return func(*args, **(kwargs or {}))
        return tree_map(_rounded, func(*tree_map(_widened, args), **tree_map(_widened, kwargs or {})))


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16


def _widened(value: Any) -> Any:
    return value.float() if _is_bfloat16(value) else value


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) else value
