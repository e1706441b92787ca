"""Actions as numbers, all at once."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA, Loss, RegressionVLA
from vla_tune.models.heads.codes import ActionSpace, at_placeholders, behind_prompt
from vla_tune.models.values import absolute_errors


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

    def over(self, network: VLA) -> "RegressionModel":
        """The network, with its action head read."""
        return RegressionModel(network, self)


@dataclass(frozen=True, eq=False)
class RegressionModel:
    """A network whose own head says action values (an `ActionModel`)."""

    network: VLA
    head: RegressionHead

    def loss(self, batch: Batch) -> Loss:
        """The absolute error of each value, row by row.

        Raises:
            ValueError: the chunks have another length than the contract's horizon.
        """
        return absolute_errors(self.raw, batch, horizon=self.head.space.horizon)

    @torch.no_grad()
    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The values as they are: a little outside [-1, 1] where the model says so."""
        return self.actions(self.raw(batch))

    @property
    def replayable(self) -> bool:
        """Yes: one pass."""
        return True

    def raw(self, batch: Batch) -> Float[Tensor, "B T A"]:
        """What the model's action head says.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(self.network, RegressionVLA):
            raise ValueError(f"{type(self.network).__name__} has no action head, which regression needs: choose another head.")
        space = self.head.space
        values = space.horizon * space.action_dimension
        count = space.tokenizer.num_codes(space.horizon, space.action_dimension)
        hidden = at_placeholders(self.network(batch), batch, count=count)
        return self.network.action_values(hidden[:, count - values :])

    def actions(self, raw: Float[Tensor, "B T A"]) -> Float[np.ndarray, "B T A"]:
        """The same as numpy, float32."""
        return raw.float().cpu().numpy()

    def reaction(self, batch: Batch) -> Float[Tensor, "B V"]:
        """Logits behind the prompt: of the vocabulary, which the network has all the same."""
        return behind_prompt(self.network, batch)

    def answer(self, batch: Batch) -> Float[Tensor, "B T A"]:
        """The values."""
        return self.raw(batch)
