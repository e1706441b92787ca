"""What a head must offer, and what it is told."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA
from vla_tune.schema import Contract
from vla_tune.tokens import ActionTokenizer, action_tokenizer


@dataclass(frozen=True)
class HeadLoss:
    """The loss of a batch, and how well each label was met."""

    per_label: Float[Tensor, " M"]
    """Loss of each label, a code or an action value, row by row."""
    correct: Bool[Tensor, " M"] | None
    """Whether the most likely code was the label; None where there are no codes."""
    rows: Int[Tensor, " M"]
    """The row of the batch that each label belongs to."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Mean over the labels."""
        return self.per_label.mean()


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """What a chunk of actions is made of, as far as a head must know."""

    tokenizer: ActionTokenizer
    horizon: int
    """T."""
    action_dimension: int
    """A."""
    location_codes: int
    """Codes in front of the chunk that are learned, where they have a label, but not decoded."""
    stop_id: int
    """The id that ends a sequence."""

    def rows(self, device: torch.device) -> Int[Tensor, " N"]:
        """The ids of the action codes on `device`, copied there once."""
        return _rows(self.tokenizer, device)


@runtime_checkable
class Head(Protocol):
    """Turns hidden states into a loss or into actions."""

    def loss(self, model: VLA, batch: Batch) -> HeadLoss:
        """The training loss, at the labelled positions only."""
        ...

    def predict(self, model: VLA, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """Normalised actions: in [-1, 1], and near it where codes stand for frequencies (FAST)."""
        ...


@runtime_checkable
class FixedHead(Head, Protocol):
    """A head whose work on the device ends in one tensor."""

    @property
    def replayable(self) -> bool:
        """Whether nothing is read back from the device on the way, so that `raw` can be a CUDA graph."""
        ...

    def raw(self, model: VLA, batch: Batch) -> Int[Tensor, "B K"] | Float[Tensor, "B T A"]:
        """All that is computed on the device."""
        ...

    def actions(self, raw: Int[Tensor, "B K"] | Float[Tensor, "B T A"]) -> Float[np.ndarray, "B T A"]:
        """Normalised actions from what `raw` gave; `predict` is one after the other."""
        ...


@runtime_checkable
class TokenHead(Head, Protocol):
    """A head whose actions are codes of the vocabulary."""

    def outside_mass(self, model: VLA, batch: Batch) -> Float[np.ndarray, " B"]:
        """Probability that the model gives to other ids than action codes, mean over the codes of each row."""
        ...


@lru_cache(maxsize=16)
def _rows(tokenizer: ActionTokenizer, device: torch.device) -> Int[Tensor, " N"]:
    with torch.inference_mode(False):  # it serves training too
        return torch.as_tensor(tokenizer.allowed_ids, device=device)


def head_of(contract: Contract, head: Callable[..., Head], *, stop_id: int) -> Head:
    """A head for what the contract says about actions; `head` is a class, or a class with the rest of its arguments.

    Raises:
        ValueError: the head decodes in another way than the contract says.
    """
    if decoding_of(head) != contract.decoding:
        raise ValueError(
            f"the contract says decoding={contract.decoding!r}, the head is {decoding_of(head)!r}: choose that of the training run."
        )
    return head(action_space(contract, stop_id=stop_id))


def action_space(contract: Contract, *, stop_id: int) -> ActionSpace:
    """What the contract says about a chunk of actions."""
    return ActionSpace(
        tokenizer=action_tokenizer(contract.action_tokens),
        horizon=contract.horizon,
        action_dimension=contract.embodiment.action_dimension,
        location_codes=contract.location_codes,
        stop_id=stop_id,
    )


def decoding_of(head: Any) -> str:
    """What a contract calls the decoding of a head class, also where some of its arguments are bound already."""
    return getattr(head, "func", head).decoding
