"""Action tokenizers as data, as a model's part of the contract keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vla_tune.schema import structured


@dataclass(frozen=True, kw_only=True)
class BinTokens:
    """A tokenizer with one code per action value, as data."""

    kind: Literal["bins"]
    vocabulary_size: int
    """V: the code of a bin is counted down from here (`openvla-spec`: 32000)."""
    edges: tuple[tuple[float, ...], ...]
    """Bin edges in normalised units; one row serves every dimension, else one row per dimension."""


@dataclass(frozen=True, kw_only=True)
class FastTokens:
    """A FAST tokenizer (arXiv 2501.09747), as data."""

    kind: Literal["fast"]
    vocabulary_size: int
    """V: FAST's token i is the id V - 1 - i."""
    scale: float
    """DCT coefficients are multiplied by it and rounded."""
    min_token: int
    """The smallest rounded coefficient in the data it was fitted on."""
    horizon: int
    """T."""
    action_dimension: int
    """A."""
    bpe: str
    """The byte-pair tokenizer, as the JSON of `tokenizers`."""


ActionTokens = BinTokens | FastTokens


def fast_tokens_from_record(record: Mapping[str, Any], *, source: str) -> FastTokens:
    """A FAST tokenizer read from a file of its own.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    return structured(record, FastTokens, source)
