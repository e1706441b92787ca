"""Weights of a base with an adapter's change of them, tensor by tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vla_tune.adapters.changes import Changes, Learned
from vla_tune.models.weights import Weights


def merged(weights: Mapping[str, Tensor], changes: Changes, *, dtype: torch.dtype) -> Weights:
    """The adapted weights, computed in float32 and rounded once to `dtype`, each when it is asked for.

    A 4-bit base is not quantised again, which would round away most of a small update.

    Args:
        weights: What training multiplied with, by name.
        changes: What becomes of some of them; weights that learned and are new to the base come beside them.
        dtype: bfloat16 or float32.

    Raises:
        ValueError: a change is of a weight that there is not, or `dtype` is another one.
    """
    _check_dtype(dtype)
    foreign = [name for name, change in changes.items() if name not in weights and not isinstance(change, Learned)]
    if foreign:
        raise ValueError(
            f"the adapter changes {foreign[0]}, which the base does not have: use the base and the additions of its training run."
        )

    def made(name: str) -> Tensor:
        change = changes.get(name)
        if change is None:
            return weights[name].to(dtype)
        return change(weights[name] if name in weights else torch.empty(0)).to(dtype)

    return Weights([*weights, *changes], made)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(
            f"dtype={dtype}: weights are merged into torch.bfloat16 or torch.float32. Merging into 4 bits again would round away "
            "most of what was learned; serve base and adapter unmerged instead."
        )
