"""Attention that sees learned keys and values in front of its own (prefix-tuning, arXiv 2101.00190, §4)."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CHILD = "prefix"
_KERNELS = ("eager", "sdpa")
_MARK = "prefixed_"
"""Before the name of the kernel; models may share a configuration, and one without prefixes computes what it did."""


class Prefix(nn.Module):
    """`count` keys and values for each head that has its own, float32; keys are seen from every position alike: not rotated."""

    def __init__(self, heads: int, count: int, width: int, *, deviation: float, device: torch.device) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(heads, count, width, device=device).normal_(std=deviation))
        self.values = nn.Parameter(torch.empty(heads, count, width, device=device).normal_(std=deviation))

    def forward(self, own: Float[Tensor, "B H L W"], learned: Float[Tensor, "H n W"]) -> Float[Tensor, "B H n_plus_L W"]:
        """`learned` (the keys or the values) in front of `own`, in its dtype."""
        return torch.cat([learned.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=2)


def use_prefixes(language_model: PreTrainedModel) -> None:
    """Let the attention of `language_model` see the prefixes of its attention modules, in place, with the kernel it has.

    Raises:
        ValueError: the kernel takes no mask of this kind.
    """
    kernel = str(language_model.config._attn_implementation).removeprefix(_MARK)
    if kernel not in _KERNELS:
        raise ValueError(f"attention={kernel} has no room for a prefix: choose model.attention=sdpa or eager.")
    name = f"{_MARK}{kernel}"
    AttentionInterface.register(name, _prefixed(kernel))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    language_model.set_attn_implementation(name)


def _prefixed(kernel: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        function = _own_eager(module) if kernel == "eager" else ALL_ATTENTION_FUNCTIONS[kernel]
        prefix = getattr(module, CHILD, None)
        if prefix is not None:
            attention_mask = _mask(attention_mask, query, key, prefix.keys.shape[1])
            key, value = prefix(key, prefix.keys), prefix(value, prefix.values)
        return function(module, query, key, value, attention_mask, **options)

    return attention


def _mask(mask: Tensor | None, query: Tensor, key: Tensor, count: int) -> Tensor:
    """The mask of the positions with `count` more in front, which every position sees."""
    if mask is None:  # the kernel's own causal mask, which counts from the first key
        new, length = query.shape[2], key.shape[2]
        mask = query.new_ones(new, length, dtype=torch.bool).tril(length - new)[None, None]
    mask = mask[..., : key.shape[2]]
    return F.pad(mask, (count, 0), value=True if mask.dtype == torch.bool else 0.0)


def _own_eager(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Of the file that the module's class stands in: some classes cap or drop."""
    return sys.modules[type(module).__module__].eager_attention_forward
