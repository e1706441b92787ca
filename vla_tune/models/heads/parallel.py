"""Actions as tokens of the language model's vocabulary, all at once."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA, Loss
from vla_tune.models.heads.base import ActionSpace
from vla_tune.models.heads.codes import (
    Softmax,
    WholeVocabulary,
    at_placeholders,
    behind_prompt,
    code_losses,
    everywhere,
    log_probabilities,
)


@dataclass(frozen=True, eq=False)
class ParallelTokenHead:
    """Predicts every code of a chunk in one forward pass (OpenVLA-OFT with discrete actions, arXiv 2502.19645, §4).

    loss: cross-entropy at the labelled positions, -sum_j t_j log softmax(z)_j. The target t is the label's row of
    `tokenizer.target_distributions(deviation)`: one-hot for deviation 0, else a Gaussian over neighbouring bins, which tells the
    model that a bin off by one is nearly right.

    Raises:
        ValueError: the tokenizer's codes have no fixed number, so there is no telling how many to predict.
    """

    decoding: ClassVar[str] = "parallel"
    space: ActionSpace
    deviation: float = 0.0
    """Of the soft targets, in bins."""
    softmax: Softmax = WholeVocabulary()  # noqa: RUF009 (frozen, without fields)

    def __post_init__(self) -> None:
        if not self.space.tokenizer.free:
            raise ValueError("codes of varying number cannot be predicted in parallel: choose head=autoregressive, or bins.")
        _ = self.targets  # a deviation that the tokenizer cannot have is refused now, not at the first step

    def over(self, network: VLA) -> "ParallelTokenModel":
        """The network, with its codes predicted in this way."""
        return ParallelTokenModel(network, self)

    @property
    def count(self) -> int:
        """K: placeholders of a chunk."""
        return self.space.tokenizer.num_codes(self.space.horizon, self.space.action_dimension)

    @cached_property
    def targets(self) -> Float[Tensor, "N N"]:
        """Of each code: how likely every code is to be."""
        return torch.as_tensor(self.space.tokenizer.target_distributions(self.deviation), dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class ParallelTokenModel:
    """A network whose codes are predicted all at once (an `ActionModel`)."""

    network: VLA
    head: ParallelTokenHead

    def loss(self, batch: Batch) -> Loss:
        """Soft-target cross-entropy and token accuracy at the labelled positions."""
        head, rows = self.head, self.head.space.rows(batch.input_ids.device)
        return code_losses(self.network, batch, rows=rows, targets=head.targets, softmax=head.softmax)

    @torch.no_grad()
    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The most likely action code at each placeholder, decoded."""
        return self.actions(self.raw(batch))

    @property
    def replayable(self) -> bool:
        """Yes: one pass."""
        return True

    def raw(self, batch: Batch) -> Int[Tensor, "B K"]:
        """Ids predicted at the placeholders, restricted to action codes."""
        hidden = at_placeholders(self.network(batch), batch, count=self.head.count)
        rows = self.head.space.rows(hidden.device)
        return rows[self.network.vocabulary_logits(hidden.flatten(0, 1), rows).argmax(dim=-1)].unflatten(0, (len(batch), -1))

    def actions(self, raw: Int[Tensor, "B K"]) -> Float[np.ndarray, "B T A"]:
        """The chunks that the codes stand for."""
        space = self.head.space
        return np.stack([space.tokenizer.decode(row, action_dimension=space.action_dimension) for row in raw.cpu().numpy()])

    @torch.no_grad()
    def outside_mass(self, batch: Batch) -> Float[np.ndarray, " B"]:
        """Probability that the model gives to other ids than action codes, mean over the placeholders of each row."""
        hidden = at_placeholders(self.network(batch), batch, count=self.head.count).flatten(0, 1)
        log_probabilities, _ = WholeVocabulary()(self.network, hidden, self.head.space.rows(hidden.device))
        inside = log_probabilities.logsumexp(dim=-1).exp().unflatten(0, (len(batch), -1))
        return (1 - inside.mean(dim=-1)).clamp(min=0).cpu().numpy()

    def log_probabilities(self, batch: Batch) -> Float[Tensor, " B"]:
        """Of each row's labels together, in nats."""
        return log_probabilities(self.network, batch, rows=self.head.space.rows(batch.input_ids.device), softmax=self.head.softmax)

    def reaction(self, batch: Batch) -> Float[Tensor, "B V"]:
        """Logits behind the prompt."""
        return behind_prompt(self.network, batch)

    def answer(self, batch: Batch) -> Float[Tensor, "places V"]:
        """Logits at every position of every row."""
        return everywhere(self.network, batch)
