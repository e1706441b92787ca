"""What an action tokenizer must offer."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from vla_tune.tokens.bins import BinTokenizer
from vla_tune.tokens.fast import FastTokenizer
from vla_tune.tokens.records import ActionTokens, BinTokens


@runtime_checkable
class ActionTokenizer(Protocol):
    """Normalised actions <-> codes, which are ids of the language model's vocabulary."""

    @property
    def allowed_ids(self) -> Int[np.ndarray, " N"]:
        """The ids a code may take, in the order of `target_distributions`."""
        ...

    @property
    def resolution(self) -> float:
        """Between neighbouring values that codes stand for, in normalised units."""
        ...

    @property
    def free(self) -> bool:
        """Whether any code may follow any other, so that every chunk has exactly `num_codes` of them."""
        ...

    def check(self, horizon: int, action_dimension: int) -> None:
        """Refuse chunks of another shape than the codes were made for.

        Raises:
            ValueError: both are named.
        """
        ...

    def num_codes(self, horizon: int, action_dimension: int) -> int:
        """K, the length of an encoded chunk; the largest possible, where it depends on the chunk."""
        ...

    def encode(self, actions: Float[np.ndarray, "T A"]) -> Int[np.ndarray, " K"]:
        """Codes of a chunk in [-1, 1]."""
        ...

    def decode(self, codes: Int[np.ndarray, " K"], *, action_dimension: int) -> Float[np.ndarray, "T A"]:
        """The chunk that the codes stand for."""
        ...

    def allowed_next(self, codes: Sequence[int], *, horizon: int, action_dimension: int) -> Int[np.ndarray, " n"]:
        """Ids that may follow `codes` in the encoding of a chunk; none where it is complete."""
        ...

    def target_distributions(self, deviation: float) -> Float[np.ndarray, "N N"]:
        """Row i: the probabilities over `allowed_ids` to learn when the code is `allowed_ids[i]`."""
        ...

    def to_record(self) -> ActionTokens:
        """What a contract keeps of it."""
        ...


def action_tokenizer(tokens: ActionTokens) -> ActionTokenizer:
    """The tokenizer that a contract describes."""
    return BinTokenizer.from_record(tokens) if isinstance(tokens, BinTokens) else FastTokenizer.from_record(tokens)
