"""Weights that are no numbers are refused where they enter: an argmax over NaN is a constant action."""

from collections.abc import Iterable
from pathlib import Path

import torch
from bitsandbytes.nn.modules import Params4bit
from torch import Tensor


def check_finite(tensors: Iterable[tuple[str, Tensor]], source: Path | str) -> None:
    """Look at every floating-point value once, at the speed of memory; 4-bit codes and tensors on the meta device have none.

    Raises:
        ValueError: one is NaN or infinite; the tensor and `source` are named.
    """
    for name, tensor in tensors:
        if isinstance(tensor, Params4bit) or not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor.detach())  # both are NaN where one value is
        if not (low.isfinite() and high.isfinite()):
            raise ValueError(
                f"{source}: {name} holds NaN or infinite values: the weights are damaged, or their training diverged. "
                "Copy or download them again, or take an earlier checkpoint."
            )
