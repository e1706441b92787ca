"""Actions as tokens of the language model's vocabulary."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vla_tune.data.collate import Batch
from vla_tune.heads.base import HeadLoss
from vla_tune.models.base import VLA
from vla_tune.tokens import IGNORED, ActionTokenizer


@dataclass(frozen=True, eq=False)
class ParallelTokenHead:
    """Predicts every code of a chunk in one forward pass (OpenVLA-OFT with discrete actions, arXiv 2502.19645, §4).

    loss: cross-entropy over the whole vocabulary at the labelled positions, -sum_j t_j log softmax(z)_j. The target t is the
    label's row of `tokenizer.target_distributions(deviation)`: one-hot for deviation 0, else a Gaussian over neighbouring bins,
    which tells the model that a bin off by one is nearly right.
    """

    tokenizer: ActionTokenizer
    action_dimension: int
    deviation: float = 0.0
    """Of the soft targets, in bins."""
    location_codes: int = 0
    """Codes in front of the chunk that are learned, where they have a label, but not decoded."""
    location_weight: float = 1.0
    """Of the loss of such a code against that of an action's."""

    def loss(self, model: VLA, batch: Batch) -> HeadLoss:
        """Soft-target cross-entropy and token accuracy at the labelled positions."""
        assert batch.labels is not None, "a batch without labels has no loss"
        positions = batch.labels != IGNORED
        logits = model.vocabulary_logits(model(batch)[before(positions)])
        log_probabilities = F.log_softmax(logits, dim=-1)
        allowed = self._allowed(logits.device)
        labels = batch.labels[positions]
        targets = self._targets(logits.device)[allowed[0] - labels]
        per_label = -(targets * log_probabilities[:, allowed]).sum(dim=-1)
        rank = batch.placeholders.cumsum(dim=1)[positions]
        weights = torch.where(rank <= self.location_codes, self.location_weight, 1.0)
        return HeadLoss(weights * per_label, logits.argmax(dim=-1) == labels)

    @torch.no_grad()
    def predict(self, model: VLA, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The most likely action code at each placeholder, decoded."""
        codes = self.codes(model, batch)[:, self.location_codes :].cpu().numpy()
        return np.stack([self.tokenizer.decode(row, action_dimension=self.action_dimension) for row in codes])

    def codes(self, model: VLA, batch: Batch) -> Int[Tensor, "B K"]:
        """Ids predicted at the placeholders, restricted to action codes."""
        logits = model.vocabulary_logits(model(batch)[before(batch.placeholders)])
        allowed = self._allowed(logits.device)
        return allowed[logits[:, allowed].argmax(dim=-1)].unflatten(0, (len(batch), -1))

    def _allowed(self, device: torch.device) -> Int[Tensor, " N"]:
        return torch.as_tensor(self.tokenizer.allowed_ids, device=device)

    def _targets(self, device: torch.device) -> Float[Tensor, "N N"]:
        return self._target_rows.to(device)

    @cached_property
    def _target_rows(self) -> Float[Tensor, "N N"]:
        return torch.as_tensor(self.tokenizer.target_distributions(self.deviation), dtype=torch.float32)


def before(positions: torch.Tensor) -> torch.Tensor:
    """Positions [B L] shifted one to the left: the hidden state at p - 1 predicts p."""
    return torch.cat([positions[:, 1:], positions.new_zeros(len(positions), 1)], dim=1)
