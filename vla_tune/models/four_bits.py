"""The 4-bit formats: which sixteen values, and how the scale of each block of 64 weights is kept."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from bitsandbytes.functional import QuantState, quantize_4bit
from jaxtyping import BFloat16
from torch import Tensor

from vla_tune.models.nf4_blocks import BLOCK, nf4_blocks


@dataclass(frozen=True)
class FourBits:
    """One of the formats."""

    codes: str
    """`nf4`, quantiles of a normal distribution (QLoRA, arXiv 2305.14314, §3), or `fp4`, a float of 1, 2 and 1 bits."""
    double: bool
    """Whether the scales are kept in 8 bits (double quantisation), or in float32."""


FOUR_BITS = {
    "nf4": FourBits("nf4", double=True),
    "nf4_single": FourBits("nf4", double=False),
    "fp4": FourBits("fp4", double=True),
    "fp4_single": FourBits("fp4", double=False),
}
TABULATED = "nf4"
"""The format that `nf4_blocks` makes from a table and whose copy is kept; the others are bitsandbytes' own search at each load."""


@runtime_checkable
class Quantized(Protocol):
    """One weight in 4 bits."""

    @property
    def codes(self) -> Tensor:
        """Two to a byte."""
        ...

    def state(self, shape: torch.Size) -> QuantState:
        """What bitsandbytes must know of a weight of `shape`."""
        ...


@dataclass(frozen=True)
class Searched:
    """As bitsandbytes made it."""

    codes: Tensor
    known: QuantState

    def state(self, shape: torch.Size) -> QuantState:
        """What bitsandbytes said of it."""
        assert self.known.shape == shape
        return self.known


def quantized(weight: BFloat16[Tensor, "out in"], base: str) -> Quantized:
    """`weight` in the format `base`.

    Raises:
        ValueError: a weight is NaN or infinite, or their number is no multiple of 64.
    """
    if base == TABULATED:
        return nf4_blocks(weight)
    if weight.numel() % BLOCK:
        shape = tuple(weight.shape)
        raise ValueError(f"a weight of shape {shape} does not fill blocks of {BLOCK}: leave this layer out of nf4.targets.")
    if not weight.isfinite().all():
        raise ValueError("weights hold NaN or infinity: download the checkpoint again, or take the one before training diverged.")
    chosen = FOUR_BITS[base]
    return Searched(*quantize_4bit(weight, blocksize=BLOCK, compress_statistics=chosen.double, quant_type=chosen.codes))


def format_of(state: QuantState) -> str:
    """The name of the format that a weight has."""
    found = FourBits(state.quant_type, double=state.state2 is not None)  # pyright: ignore[reportArgumentType]
    return next(name for name, known in FOUR_BITS.items() if known == found)
