"""Actions as tokens of the language model's vocabulary, all at once."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.heads.base import ActionSpace, HeadLoss
from vla_tune.heads.loss import Softmax, WholeVocabulary, at_placeholders, before, cross_entropy, labelled, rows_of
from vla_tune.models.base import VLA


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
    location_weight: float = 1.0
    """Of the loss of a location code against that of an action's."""
    softmax: Softmax = WholeVocabulary()  # noqa: RUF009 (frozen, without fields)

    def __post_init__(self) -> None:
        if not self.space.tokenizer.free:
            raise ValueError("codes of varying number cannot be predicted in parallel: choose head=autoregressive, or bins.")

    def loss(self, model: VLA, batch: Batch) -> HeadLoss:
        """Soft-target cross-entropy and token accuracy at the labelled positions."""
        positions = labelled(batch.labels)
        assert batch.labels is not None
        hidden, labels = model(batch)[before(positions)], batch.labels[positions]
        rows = self.space.rows(hidden.device)
        log_probabilities, best = self.softmax(model, hidden, rows)
        per_label = cross_entropy(log_probabilities, labels, rows=rows, targets=self._targets.to(hidden.device))
        rank = batch.placeholders.cumsum(dim=1)[positions]
        weights = torch.where(rank <= self.space.location_codes, self.location_weight, 1.0)
        return HeadLoss(weights * per_label, best == labels, rows_of(positions))

    @torch.no_grad()
    def predict(self, model: VLA, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The most likely action code at each placeholder, decoded."""
        return self.actions(self.raw(model, batch))

    @property
    def replayable(self) -> bool:
        """Yes: one pass."""
        return True

    def raw(self, model: VLA, batch: Batch) -> Int[Tensor, "B K"]:
        """Ids predicted at the placeholders, restricted to action codes."""
        hidden = at_placeholders(model(batch), batch, count=self._count)
        rows = self.space.rows(hidden.device)
        return rows[model.vocabulary_logits(hidden.flatten(0, 1), rows).argmax(dim=-1)].unflatten(0, (len(batch), -1))

    def actions(self, raw: Int[Tensor, "B K"]) -> Float[np.ndarray, "B T A"]:
        """The chunks that the codes stand for, without the location."""
        codes = raw[:, self.space.location_codes :].cpu().numpy()
        return np.stack([self.space.tokenizer.decode(row, action_dimension=self.space.action_dimension) for row in codes])

    @torch.no_grad()
    def outside_mass(self, model: VLA, batch: Batch) -> Float[np.ndarray, " B"]:
        """Probability that the model gives to other ids than action codes, mean over the placeholders of each row."""
        hidden = at_placeholders(model(batch), batch, count=self._count).flatten(0, 1)
        log_probabilities, _ = WholeVocabulary()(model, hidden, self.space.rows(hidden.device))
        inside = log_probabilities.logsumexp(dim=-1).exp().unflatten(0, (len(batch), -1))
        return (1 - inside.mean(dim=-1)).clamp(min=0).cpu().numpy()

    @property
    def _count(self) -> int:
        return self.space.location_codes + self.space.tokenizer.num_codes(self.space.horizon, self.space.action_dimension)

    @cached_property
    def _targets(self) -> Float[Tensor, "N N"]:
        return torch.as_tensor(self.space.tokenizer.target_distributions(self.deviation), dtype=torch.float32)
