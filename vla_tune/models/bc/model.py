"""The two verbs of a behaviour cloner."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import Loss
from vla_tune.models.bc.network import BCNetwork
from vla_tune.models.values import absolute_errors


@dataclass(frozen=True, eq=False)
class BCModel:
    """Says the values of a chunk in one pass (an `ActionModel`, `Launchable`).

    loss: mean of |prediction - action| over the values within the episode, in normalised units: the median of what was
    demonstrated, where demonstrations differ (the L1 of arXiv 2304.13705, ACT, without its latent).
    """

    network: BCNetwork
    horizon: int

    def loss(self, batch: Batch) -> Loss:
        """The absolute error of each value, row by row.

        Raises:
            ValueError: the chunks have another length than the contract's horizon.
        """
        return absolute_errors(self.raw, batch, horizon=self.horizon)

    @torch.no_grad()
    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The values as they are: a little outside [-1, 1] where the network says so."""
        return self.actions(self.raw(batch))

    @property
    def replayable(self) -> bool:
        """Yes: one pass."""
        return True

    def raw(self, batch: Batch) -> Float[Tensor, "B T A"]:
        """What the network says."""
        assert batch.pixel_values is not None
        return self.network(batch.pixel_values, batch.input_ids, batch.attention_mask, batch.state)

    def actions(self, raw: Float[Tensor, "B T A"]) -> Float[np.ndarray, "B T A"]:
        """The same as numpy, float32."""
        return raw.float().cpu().numpy()
