"""Actions as numbers, all at once."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.heads.base import ActionSpace, HeadLoss
from vla_tune.heads.loss import at_placeholders, rows_of
from vla_tune.models.base import VLA, RegressionVLA


@dataclass(frozen=True, eq=False)
class RegressionHead:
    """Regresses the values of a chunk in one forward pass (OpenVLA-OFT, arXiv 2502.19645, §4).

    loss: mean of |prediction - action| over the values within the episode, in normalised units. What learns is the model's
    `action_head`, which reads the states that predict the K = T A placeholders.

    Raises:
        ValueError: the contract's codes are no bins.
    """

    decoding: ClassVar[str] = "regression"
    space: ActionSpace

    def __post_init__(self) -> None:
        if not self.space.tokenizer.free:
            raise ValueError("values are regressed, not coded: leave tokens at bins, of which only the vocabulary's size matters.")

    def loss(self, model: VLA, batch: Batch) -> HeadLoss:
        """The absolute error of each value, row by row.

        Raises:
            ValueError: the chunks have another length than the contract's horizon.
        """
        assert batch.actions is not None, "a batch without actions has no loss"
        assert batch.action_mask is not None
        if batch.actions.shape[1] != self.space.horizon:
            raise ValueError(
                f"the dataset gives chunks of {batch.actions.shape[1]} actions, the contract says {self.space.horizon}."
            )
        errors = (self.raw(model, batch) - batch.actions).abs()
        return HeadLoss(errors[batch.action_mask], None, rows_of(batch.action_mask))

    @torch.no_grad()
    def predict(self, model: VLA, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The values as they are: a little outside [-1, 1] where the model says so."""
        return self.actions(self.raw(model, batch))

    @property
    def replayable(self) -> bool:
        """Yes: one pass."""
        return True

    def raw(self, model: VLA, batch: Batch) -> Float[Tensor, "B T A"]:
        """What the model's action head says.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(model, RegressionVLA):
            raise ValueError(f"{type(model).__name__} has no action head, which regression needs: choose another head.")
        first, count = self.space.location_codes, self.space.horizon * self.space.action_dimension
        return model.action_values(at_placeholders(model(batch), batch, count=first + count)[:, first:])

    def actions(self, raw: Float[Tensor, "B T A"]) -> Float[np.ndarray, "B T A"]:
        """The same as numpy, float32."""
        return raw.float().cpu().numpy()
