"""NF4 with double quantisation on a CPU: bitsandbytes' bytes, by a table instead of a search.

A block of 64 weights w with the largest magnitude m is stored as the codes nearest to w / m, and m itself in 8 bits after its mean
was taken off (QLoRA, arXiv 2305.14314, §3). Both w and m are bfloat16, and scaling both by a power of two changes no code: a code
depends on the seven bits of m's fraction, and on the sign, the seven bits and the exponent of w relative to m's. That is a table of
2^18 entries, filled by bitsandbytes' own search.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from bitsandbytes.functional import QuantState, create_dynamic_map, get_4bit_type, quantize_4bit, quantize_blockwise
from jaxtyping import BFloat16, Float, Int16, UInt8
from torch import Tensor

BLOCK = 64
"""Weights that share one largest magnitude."""
OUTER_BLOCK = 256
"""Largest magnitudes that share one scale."""
_CHUNK = 2**18
"""Weights handled at once: what is computed on the way stays in the second-level cache."""
_OCTAVES = 6
"""Below 2^-6 of the largest magnitude every weight takes the code of zero."""
_ORDINARY = range(8, 248)
"""Biased exponents of the largest magnitude between which neither it nor its reciprocal is subnormal."""


@dataclass(frozen=True)
class Blocks:
    """One weight in 4 bits."""

    codes: UInt8[Tensor, "half_of_them 1"]
    """Two to a byte, the first in the upper half."""
    magnitudes: UInt8[Tensor, " blocks"]
    """The largest magnitude of each block less `offset`, in 8 bits."""
    scales: Float[Tensor, " outer_blocks"]
    """Of the magnitudes."""
    offset: Float[Tensor, ""]
    """The mean magnitude."""

    def state(self, shape: torch.Size) -> QuantState:
        """What bitsandbytes must know of a weight of `shape`."""
        device = self.codes.device
        outer = QuantState(absmax=self.scales, code=_outer_codes().to(device), blocksize=OUTER_BLOCK, dtype=torch.float32)
        return QuantState(
            absmax=self.magnitudes,
            shape=shape,
            dtype=torch.bfloat16,
            blocksize=BLOCK,
            code=get_4bit_type("nf4", device=device),
            quant_type="nf4",
            offset=self.offset,
            state2=outer,
        )


def nf4_blocks(weight: BFloat16[Tensor, "out in"]) -> Blocks:
    """`weight` in 4 bits, byte for byte what `bitsandbytes.functional.quantize_4bit` makes of it (on a CPU: on one thread).

    Raises:
        ValueError: a weight is NaN or infinite, or their number is no multiple of 64.
    """
    if weight.numel() % BLOCK:
        shape = tuple(weight.shape)
        raise ValueError(f"a weight of shape {shape} does not fill blocks of {BLOCK}: leave this layer out of nf4.targets.")
    if weight.device.type != "cpu":
        codes, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
        assert state.state2 is not None
        assert state.offset is not None
        return Blocks(codes, state.absmax, state.state2.absmax, state.offset)
    bits = weight.contiguous().reshape(-1, BLOCK).view(torch.int16)
    codes = torch.empty(len(bits), BLOCK // 2, dtype=torch.uint8)
    largest = torch.empty(len(bits), dtype=torch.float32)
    step = _CHUNK // BLOCK
    for start in range(0, len(bits), step):
        rows = slice(start, start + step)
        codes[rows], largest[rows] = _coded(bits[rows])
    if not largest.isfinite().all():
        raise ValueError("weights hold NaN or infinity: download the checkpoint again, or take the one before training diverged.")
    with _one_thread():  # the mean depends on the number of threads in its last bit
        offset = largest.mean()
    magnitudes, outer = quantize_blockwise(largest - offset, blocksize=OUTER_BLOCK)
    return Blocks(codes.reshape(-1, 1), magnitudes, outer.absmax, offset)


def _coded(bits: Int16[Tensor, "blocks 64"]) -> tuple[UInt8[Tensor, "blocks 32"], Float[Tensor, " blocks"]]:
    """Codes and largest magnitudes of some blocks of bfloat16 weights, given as their bits."""
    magnitude = bits & 0x7FFF
    largest = magnitude.amax(dim=1)
    exponents = largest >> 7
    if exponents.min() < _ORDINARY.start or exponents.max() >= _ORDINARY.stop:
        return _searched(bits)
    below = magnitude - ((largest & 0x7F80) - (_OCTAVES << 7))[:, None]
    entry = below.clamp_(min=0).add_((bits >> 15) & 1024)
    index = entry.int() + ((largest & 0x7F).int() << 11)[:, None]
    codes = _table().index_select(0, index.reshape(-1)).reshape(len(bits), BLOCK // 2, 2)
    return torch.add(codes[..., 1], codes[..., 0], alpha=16), largest.view(torch.bfloat16).float()


def _searched(bits: Int16[Tensor, "blocks 64"]) -> tuple[UInt8[Tensor, "blocks 32"], Float[Tensor, " blocks"]]:
    """The same by bitsandbytes itself: for blocks of zeros, and numbers near the ends of bfloat16."""
    weights = bits.contiguous().view(torch.bfloat16)
    codes, largest = torch.ops.bitsandbytes.quantize_4bit.default(weights, BLOCK, "nf4", torch.uint8)
    return codes.reshape(-1, BLOCK // 2), largest


@cache
def _table() -> UInt8[Tensor, " entries"]:
    """Code at (fraction of the largest magnitude, sign, octave and fraction of the weight): 128 x 2 x 1024."""
    fractions = 1 + torch.arange(128) / 128
    octaves = torch.exp2(torch.arange(8).float() - _OCTAVES)
    octaves[0] = 0.0
    weights = (octaves[:, None] * fractions).reshape(-1)
    both = torch.cat([weights, -weights]).reshape(-1, BLOCK // 2)
    largest = fractions[:, None, None].expand(-1, *both.shape)  # half of each block, so that it is the largest
    asked = both.expand_as(largest).clamp(-largest, largest)  # no weight is larger: those entries are never asked for
    blocks = torch.cat([asked, largest], dim=-1)
    codes, _ = torch.ops.bitsandbytes.quantize_4bit.default(blocks, BLOCK, "nf4", torch.uint8)
    pairs = codes.reshape(-1, BLOCK // 2)[:, : BLOCK // 4]
    return torch.stack([pairs >> 4, pairs & 15], dim=-1).reshape(-1)


@cache
def _outer_codes() -> Float[Tensor, "256"]:
    return create_dynamic_map()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
