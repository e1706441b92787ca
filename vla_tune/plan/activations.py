"""What a forward pass keeps for the backward pass, block by block, as formulas in the widths.

A tensor is kept where an operation needs it for a gradient: a matrix product keeps its input where its weight (or the A of its
LoRA) learns; a product of two tensors keeps each factor whose partner carries a gradient; a norm keeps its input in float32; SiLU
and GELU keep their input; a fused attention kernel keeps queries, keys, values and its output. Symbols: D width, Q and K widths
of queries and of keys, I width of the MLP, s bytes of the residual stream, c bytes of what is multiplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Bytes of one element on the way through a model."""

    stream: int
    """s: of the residual stream, which has the dtype of the weights."""
    compute: int
    """c: of what is multiplied; 2 in an autocast."""
    adapter: int
    """Of what a LoRA layer reads."""
    norm: int
    """Of the input that a LayerNorm keeps; 4 in an autocast on a GPU. (Llama's norm always computes in float32.)"""
    mask: int
    """Of a dropout mask: 1 on a GPU; a CPU keeps it in the dtype of the input."""
    scores: int = 0
    """Of one attention score that is kept: 0 with a fused kernel, else a float32 softmax and its copy in the compute dtype."""

    @property
    def shared(self) -> bool:
        """Whether layers with the same input keep it once; each makes its own copy where it must cast."""
        return self.stream == self.compute == self.adapter

    @property
    def autocast(self) -> bool:
        """Whether products are computed in another dtype than the weights'."""
        return self.adapter == 2


def numerics(weights: str, *, precision: str, device: str) -> Numerics:
    """For weights in a format of `models.precision`, and a forward pass in `precision` (bf16 is an autocast)."""
    stream = 4 if weights == "fp32" else 2
    compute = 2 if precision == "bf16" else stream
    on_gpu = device == "cuda"
    return Numerics(
        stream=stream,
        compute=compute,
        adapter=2 if precision == "bf16" else 4,
        norm=4 if on_gpu and precision == "bf16" else stream,
        mask=1 if on_gpu else stream,
        scores=0 if on_gpu else 4 + (compute if compute < 4 else 0),
    )


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A linear layer, as far as it decides what is kept."""

    inputs: int
    outputs: int
    learns: bool = False
    """The weight itself."""
    rank: int = 0
    """Of its LoRA; 0 is none."""
    dropout: bool = False
    """In front of its LoRA."""

    @property
    def weights(self) -> int:
        """Of the matrix; a bias is left out."""
        return self.inputs * self.outputs

    @property
    def changes(self) -> bool:
        """Whether anything of it learns."""
        return self.learns or self.rank > 0

    @property
    def plain(self) -> bool:
        """Whether it keeps its input as it is."""
        return self.learns or (self.rank > 0 and not self.dropout)


def kept_input(readers: Sequence[Reader], of: Numerics, *, kept_anyway: bool = False) -> int:
    """Bytes per token of the input that `readers` share, and of what their LoRA keeps behind it."""
    plain = [reader for reader in readers if reader.plain]
    width = readers[0].inputs
    copies = (0 if kept_anyway else min(1, len(plain))) if of.shared else len(plain)
    dropped = sum(reader.dropout and reader.rank > 0 for reader in readers)
    size = of.compute if all(reader.rank == 0 for reader in plain) else of.adapter
    return copies * size * width + dropped * (of.adapter + of.mask) * width + sum(of.adapter * reader.rank for reader in readers)


@runtime_checkable
class Block(Protocol):
    """A part of a model that is run as a whole, and run again by gradient checkpointing."""

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Its linear layers."""
        ...

    @property
    def width(self) -> int:
        """Of its input: all that is kept of it under checkpointing."""
        ...

    @property
    def learns(self) -> bool:
        """Whether anything in it learns."""
        ...

    def kept(self, of: Numerics, *, length: int) -> int:
        """Bytes per token, where the input carries a gradient; `length` tokens attend to each other."""
        ...

    def first_saves(self, of: Numerics, *, length: int) -> int:
        """Bytes per token that are not kept where the input carries none."""
        ...

    def backward(self, of: Numerics) -> int:
        """Bytes per token of the gradients that live at once in the widest part of its backward pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecoderBlock:
    """A Llama block: x + o(attention(q, k, v of norm(x))), then x + down(silu(gate) * up of norm(x)).

    Kept per token: 2 * 4D (the norms' inputs), c (Q + 2Q) (rotated queries, keys and values, those of a group repeated), cQ (the
    attention's output), 3cI (gate, silu(gate), up), and the inputs of the layers that learn: cD before q, k, v; cD before gate
    and up; cI before down. For Llama-2-7B with LoRA on q, v, gate, up, down that is 166 KiB per layer.
    """

    q: Reader
    k: Reader
    v: Reader
    o: Reader
    gate: Reader
    up: Reader
    down: Reader
    heads: int
    norms_learn: bool = False

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Its seven linear layers."""
        return (self.q, self.k, self.v, self.o, self.gate, self.up, self.down)

    @property
    def width(self) -> int:
        """D."""
        return self.q.inputs

    @property
    def learns(self) -> bool:
        """Whether anything in it learns."""
        return self.norms_learn or any_changes(self.readers)

    def kept(self, of: Numerics, *, length: int) -> int:
        """Bytes per token."""
        norm = rms_norm(self.width, of, learns=self.norms_learn)
        attention = 3 * of.compute * self.q.outputs + attention_bytes(self.o.inputs, self.heads, of, length=length)
        mlp = 3 * of.compute * self.gate.outputs
        return (
            2 * norm
            + kept_input((self.q, self.k, self.v), of)
            + attention
            + kept_input((self.o,), of, kept_anyway=of.scores == 0)
            + kept_input((self.gate, self.up), of)
            + mlp
            + kept_input((self.down,), of)
        )

    def first_saves(self, of: Numerics, *, length: int) -> int:
        """The first norm's input."""
        del length
        return 0 if self.norms_learn else 4 * self.width

    def backward(self, of: Numerics) -> int:
        """The gradients of the MLP's three inner tensors, and the second norm's in float32."""
        return 3 * of.compute * self.gate.outputs + (8 + of.stream) * self.width


@dataclass(frozen=True, kw_only=True)
class VisionBlock:
    """A ViT block: x + g proj(attention(qkv of norm(x))), then x + g fc2(gelu(fc1 of norm(x))), with layer scales g or without.

    Kept per token: the norms' inputs, 3cD (qkv), cD (the attention's output), cI (before GELU), the inputs of layers that learn,
    2cD where layer scales learn, and sD with FiLM.
    """

    qkv: Reader
    proj: Reader
    fc1: Reader
    fc2: Reader
    heads: int
    norms_learn: bool = False
    scales_learn: bool = False
    modulated: bool = False
    """By FiLM maps that learn (arXiv 2502.19645, §4): x (1 + scale) + shift behind the attention keeps x."""

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Its four linear layers."""
        return (self.qkv, self.proj, self.fc1, self.fc2)

    @property
    def width(self) -> int:
        """D."""
        return self.qkv.inputs

    @property
    def learns(self) -> bool:
        """Whether anything in it learns."""
        return self.norms_learn or self.scales_learn or self.modulated or any_changes(self.readers)

    def kept(self, of: Numerics, *, length: int) -> int:
        """Bytes per token."""
        norm = of.norm * self.width + 8
        attention = of.compute * self.qkv.outputs + attention_bytes(self.proj.inputs, self.heads, of, length=length)
        return (
            2 * norm
            + kept_input((self.qkv,), of)
            + attention
            + kept_input((self.proj,), of, kept_anyway=of.scores == 0)
            + kept_input((self.fc1,), of)
            + of.compute * self.fc1.outputs
            + kept_input((self.fc2,), of)
            + 2 * of.compute * self.width * self.scales_learn
            + of.stream * self.width * self.modulated
        )

    def first_saves(self, of: Numerics, *, length: int) -> int:
        """The first norm's input, and all of the attention where FiLM is the first thing that learns."""
        unmoved = self.modulated and not (self.qkv.changes or self.proj.changes or self.scales_learn)
        attention = of.compute * self.qkv.outputs + attention_bytes(self.proj.inputs, self.heads, of, length=length)
        return 0 if self.norms_learn else of.norm * self.width + attention * unmoved

    def backward(self, of: Numerics) -> int:
        """The gradients on both sides of GELU, and the norm's."""
        return 2 * of.compute * self.fc1.outputs + (4 + of.stream) * self.width


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Linear layers one behind the other: a projector, with GELU between them, or an MLP-ResNet behind the language model.

    Kept per token (or row): what is between the layers, the inputs of layers that learn, and the inputs of norms.
    """

    layers: tuple[Reader, ...]
    norms: tuple[int, ...] = ()
    """Widths of what is normalised on the way."""
    biases_learn: bool = False

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Its linear layers."""
        return self.layers

    @property
    def width(self) -> int:
        """Of the input."""
        return self.layers[0].inputs

    @property
    def learns(self) -> bool:
        """Whether anything in it learns."""
        return self.biases_learn or any_changes(self.layers)

    def kept(self, of: Numerics, *, length: int) -> int:
        """Bytes per token."""
        del length
        inputs = sum(kept_input((layer,), of) for layer in self.layers)
        between = sum(of.compute * layer.outputs for layer in self.layers[:-1])
        return inputs + between + sum(of.norm * width + 8 for width in self.norms)

    def first_saves(self, of: Numerics, *, length: int) -> int:
        """Nothing but what learns is kept before the first layer."""
        del of, length
        return 0

    def backward(self, of: Numerics) -> int:
        """The gradients on both sides of the widest layer."""
        return max(of.compute * (layer.inputs + layer.outputs) for layer in self.layers)


def any_changes(layers: Sequence[Reader]) -> bool:
    """Whether anything of them learns."""
    return any(layer.changes for layer in layers)


def rms_norm(width: int, of: Numerics, *, learns: bool) -> int:
    """Bytes per token that Llama's norm keeps: its input in float32, 1 / rms, and what its scale multiplies if that learns."""
    return 4 * width + 4 + of.stream * width * learns


def attention_bytes(width: int, heads: int, of: Numerics, *, length: int) -> int:
    """Bytes per token behind queries, keys and values: the fused kernel's output and log-sums, or the scores."""
    return of.scores * heads * length if of.scores else of.compute * width + 4 * heads
