"""Parameters and bytes from widths alone: what the papers' figures are made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = 64
"""Weights that share one scale in NF4 (QLoRA, arXiv 2305.14314, §3)."""
SCALE_BLOCK = 256
"""Scales that share one scale of their own, in double quantisation."""


@dataclass(frozen=True, kw_only=True)
class TrainingFormat:
    """Bytes that every learned parameter costs, without activations.

    The sources' figures differ because these do: 112 GB for 7 billion parameters are 16 bytes each, 80 GB for 8 billion are 10.
    """

    weight: int
    gradient: int
    states: int
    """Of the optimizer: both moments, and a float32 copy of the weight where there is one."""

    @property
    def bytes_per_parameter(self) -> int:
        """All three."""
        return self.weight + self.gradient + self.states


FP32_ADAM = TrainingFormat(weight=4, gradient=4, states=8)
"""float32 weights, gradients and moments: 16 bytes; also what bfloat16 weights with float32 copies come to (2 + 2 + 12)."""
HALF_PRECISION = TrainingFormat(weight=2, gradient=2, states=4)
"""Everything in 16 bits, as some do: 8 bytes. The updates of small learning rates are rounded away."""
HALF_PRECISION_KAHAN = TrainingFormat(weight=2, gradient=2, states=6)
"""The same with 2 bytes for what rounding lost of each weight (Kahan summation): 10 bytes, "80 GB for 8B in half precision"."""


def nf4_bits(*, double_quantized: bool) -> float:
    """Bits per weight: 4 and one scale for each 64 weights.

    A float32 scale makes 4 + 32/64 = 4.5. Double quantisation makes 4 + 8/64 + 32/(64 * 256) = 4.127: 0.373 bits less
    (arXiv 2305.14314, §3), which is 3.0 GB for 65 billion weights.
    """
    return 4 + (8 / BLOCK + 32 / (BLOCK * SCALE_BLOCK) if double_quantized else 32 / BLOCK)


def four_bit_bytes(weights: int, *, double: bool) -> int:
    """Of one tensor as bitsandbytes keeps it, its codebook included; if `double`, the second one and the offset too."""
    scales = math.ceil(weights / BLOCK)
    if not double:
        return math.ceil(weights / 2) + 4 * scales + 4 * 16
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / SCALE_BLOCK) + 4 * (16 + 256 + 1)


def lora_parameters(shapes: Iterable[tuple[int, int]], *, rank: int) -> int:
    """The rank times (inputs + outputs), for each adapted matrix (LoRA, arXiv 2106.09685, §4.1)."""
    return sum(rank * (inputs + outputs) for inputs, outputs in shapes)


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The widths of a Llama: what decides how many parameters it has."""

    width: int
    layers: int
    hidden: int
    """Of the gated MLP."""
    vocabulary: int
    key_value_width: int | None = None
    """Of keys and of values; None is the width itself (no grouped queries)."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of one layer's seven matrices."""
        keys = self.key_value_width or self.width
        attention = {"q_proj": self.width, "k_proj": keys, "v_proj": keys, "o_proj": self.width}
        shapes = {name: (self.width, outputs) for name, outputs in attention.items()}
        return shapes | {
            "gate_proj": (self.width, self.hidden),
            "up_proj": (self.width, self.hidden),
            "down_proj": (self.hidden, self.width),
        }

    @property
    def linear_parameters(self) -> int:
        """Of all layers: what QLoRA keeps in 4 bits."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def parameters(self) -> int:
        """All of them: matrices, two norms a layer and a last one, embedding and head."""
        return self.linear_parameters + (2 * self.layers + 1) * self.width + 2 * self.vocabulary * self.width

    def lora(self, targets: Iterable[str], *, rank: int) -> int:
        """Parameters of a LoRA on the named matrices of every layer."""
        return self.layers * lora_parameters((self.linears[name] for name in targets), rank=rank)

    def lora_bytes(self, adapter: int) -> int:
        """bfloat16 weights, and `adapter` parameters that learn in float32; without activations."""
        return 2 * self.parameters + adapter * FP32_ADAM.bytes_per_parameter

    def qlora_bytes(self, adapter: int) -> float:
        """The same with the layers' matrices in NF4."""
        saved = self.linear_parameters * (2 - nf4_bits(double_quantized=True) / 8)
        return self.lora_bytes(adapter) - saved
