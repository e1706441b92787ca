"""What a head must offer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA
from vla_tune.schema import Contract
from vla_tune.tokens import action_tokenizer


@dataclass(frozen=True)
class HeadLoss:
    """The loss of a batch, and how well each label was met."""

    per_label: Float[Tensor, " M"]
    """Loss of each labelled position, row by row."""
    correct: Bool[Tensor, " M"]
    """Whether the most likely code was the label."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Mean over the labelled positions."""
        return self.per_label.mean()


@runtime_checkable
class Head(Protocol):
    """Turns hidden states into a loss or into actions."""

    def loss(self, model: VLA, batch: Batch) -> HeadLoss:
        """The training loss, at the labelled positions only."""
        ...

    def predict(self, model: VLA, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """Normalised actions in [-1, 1]."""
        ...


def head_of(contract: Contract, head: Callable[..., Head]) -> Head:
    """A head for what the contract says about codes; `head` is a class, or a class with the rest of its arguments."""
    return head(
        tokenizer=action_tokenizer(contract.action_tokens),
        action_dimension=contract.embodiment.action_dimension,
        location_codes=contract.location_codes,
    )
