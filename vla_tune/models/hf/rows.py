"""Which rows of the vocabulary stand for action codes, and how they can learn while the rest is frozen."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel


@runtime_checkable
class Rows(Protocol):
    """The last `count` ids below the vocabulary size are action codes."""

    @property
    def count(self) -> int:
        """How many."""
        ...

    @property
    def tokens(self) -> Sequence[str]:
        """Patterns of the tokenizer's special tokens that may be among them."""
        ...

    def vocabulary_size(self, existing: int) -> int:
        """V, for a model that comes with `existing` rows."""
        ...

    def prepare(self, network: PreTrainedModel) -> None:
        """Make room for them, in place."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReservedRows:
    """Rows that the model has and no text uses: beyond the tokenizer's vocabulary, or special tokens that are named."""

    size: int
    """V: the codes are the ids from V - `count` to V - 1."""
    count: int
    tokens: Sequence[str] = ()

    def vocabulary_size(self, existing: int) -> int:
        """As declared.

        Raises:
            ValueError: the model has fewer rows.
        """
        if not self.count <= self.size <= existing:
            raise ValueError(
                f"rows.size={self.size} with rows.count={self.count}: the model has {existing} rows, so the size must lie between "
                "the count and that; or append rows."
            )
        return self.size

    def prepare(self, network: PreTrainedModel) -> None:
        """They exist."""
        self.vocabulary_size(num_rows(network))


@dataclass(frozen=True, kw_only=True)
class AppendedRows:
    """Rows behind all that the model has.

    Row i starts at the mean of the existing rows plus `amplitude` of their deviation times cos(2 pi (f i / n + phase)), with a
    random low frequency f ~ `frequency` and a phase for each channel, so that neighbouring codes begin alike.
    """

    count: int
    amplitude: float = 0.5
    frequency: float = 5.0
    seed: int = 0

    @property
    def tokens(self) -> Sequence[str]:
        """None: the ids are new."""
        return ()

    def vocabulary_size(self, existing: int) -> int:
        """All rows."""
        return existing + self.count

    def prepare(self, network: PreTrainedModel) -> None:
        """Enlarge embedding and vocabulary head."""
        first = num_rows(network)
        network.resize_token_embeddings(first + self.count, mean_resizing=False)
        matrices = {id(module.weight): module.weight for module in vocabulary_modules(network)}
        generator = torch.Generator().manual_seed(self.seed)
        for matrix in matrices.values():
            matrix.data[first:] = self._drawn(matrix.data[:first], generator)

    def _drawn(self, existing: Float[Tensor, "V D"], generator: torch.Generator) -> Float[Tensor, "n D"]:
        mean, deviation = existing.mean(dim=0, dtype=torch.float32), existing.float().std(dim=0)
        position = torch.arange(self.count)[:, None] / self.count
        cycles = self.frequency * torch.randn(1, len(mean), generator=generator).abs()
        waves = torch.cos(2 * math.pi * (cycles * position + torch.rand(1, len(mean), generator=generator)))
        return (mean + self.amplitude * deviation * waves.to(mean.device)).to(existing.dtype)


class ActionRows(nn.Module):
    """Copies of the rows of the action codes, in the embedding and in the vocabulary head, that take their places.

    What is frozen or rounded (the two matrices of the whole vocabulary) stays so, and these learn in full. Where the model ties
    the matrices, one copy serves both. Parameters: `inputs.weight` and `outputs.weight`, each [n D].
    """

    def __init__(self, network: PreTrainedModel, *, first: int, count: int) -> None:
        super().__init__()
        self.first = first
        embedding, head = vocabulary_modules(network)
        self.inputs = _rows_of(embedding, first, count)
        tied = head.weight is embedding.weight
        self.outputs = nn.Linear(head.in_features, count, bias=False, device="meta")
        self.outputs.weight = self.inputs.weight if tied else _copied(head.weight, first, count)
        embedding.register_forward_hook(self.embedded)

    def contains(self, ids: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        """Which of `ids` are action codes."""
        return (ids >= self.first) & (ids < self.first + self.inputs.num_embeddings)

    def embedded(self, _: nn.Module, arguments: tuple[Any, ...], output: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The embeddings of the ids in `arguments`, those of codes taken from here (a forward hook of the embedding)."""
        codes = self.contains(arguments[0])
        own = self.inputs((arguments[0] - self.first).where(codes, 0))
        return own.to(output.dtype).where(codes[..., None], output)

    def put_in(self, logits: Float[Tensor, "M V"], hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """Logits of the whole vocabulary, those of codes computed from here."""
        own = F.linear(hidden, self.outputs.weight.to(hidden.dtype)).to(logits.dtype)
        return torch.cat([logits[:, : self.first], own, logits[:, self.first + own.shape[1] :]], dim=1)

    def weights(self, matrix: Float[Tensor, "V D"], ids: Int[Tensor, " R"]) -> Float[Tensor, "R D"]:
        """Rows `ids` of the vocabulary head `matrix`, those of codes taken from here."""
        codes = self.contains(ids)
        own = self.outputs.weight.to(matrix.dtype)[(ids - self.first).where(codes, 0)]
        return own.where(codes[:, None], matrix[ids])


def num_rows(network: PreTrainedModel) -> int:
    """Rows of the embedding."""
    return len(vocabulary_modules(network)[0].weight)


def vocabulary_modules(network: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    """The embedding, and the vocabulary head."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(head, nn.Linear)
    return embedding, head


def _rows_of(embedding: nn.Embedding, first: int, count: int) -> nn.Embedding:
    """An embedding of the same class (Gemma's scales its output) with some of the rows, without the others ever being copied."""
    rows = copy.deepcopy(embedding, {id(embedding.weight): _copied(embedding.weight, first, count)})
    rows.num_embeddings, rows.padding_idx = count, None
    return rows


def _copied(matrix: Tensor, first: int, count: int) -> nn.Parameter:
    return nn.Parameter(matrix.detach()[first : first + count].clone())
