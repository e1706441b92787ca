"""Actions as tokens of the language model's vocabulary, one after the other."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.heads.base import ActionSpace, HeadLoss
from vla_tune.heads.decoding import After, Constrained, Decoder, Watched
from vla_tune.heads.loss import Softmax, WholeVocabulary, before, cross_entropy, labelled, rows_of
from vla_tune.models.base import VLA


@dataclass(frozen=True, eq=False)
class AutoregressiveTokenHead:
    """Predicts each code of a chunk from those before it, and then the end (OpenVLA, arXiv 2406.09246, §3.2).

    loss: mean over the labels of -sum_j t_j log p_j, at the codes and the stop id; t is one-hot for deviation 0, else as in
    `ParallelTokenHead`. With the defaults it is the original's loss.
    """

    decoding: ClassVar[str] = "autoregressive"
    space: ActionSpace
    deviation: float = 0.0
    """Of the soft targets, in bins."""
    softmax: Softmax = WholeVocabulary()  # noqa: RUF009 (frozen, without fields)
    decoder: Decoder = Constrained()  # noqa: RUF009 (frozen, without fields)

    def __post_init__(self) -> None:
        _ = self._targets  # a deviation that the tokenizer cannot have is refused now, not at the first step

    def loss(self, model: VLA, batch: Batch) -> HeadLoss:
        """Cross-entropy and token accuracy at the labelled positions."""
        positions = labelled(batch.labels)
        assert batch.labels is not None
        hidden, labels = model(batch)[before(positions)], batch.labels[positions]
        rows = self._rows.to(hidden.device)
        log_probabilities, best = self.softmax(model, hidden, rows)
        per_label = cross_entropy(log_probabilities, labels, rows=rows, targets=self._targets.to(hidden.device))
        return HeadLoss(per_label, best == labels, rows_of(positions))

    @torch.no_grad()
    def predict(self, model: VLA, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The codes that `decoder` chooses, decoded."""
        return self.actions(self.raw(model, batch))

    @property
    def replayable(self) -> bool:
        """Where the number of codes is known beforehand."""
        return self.space.tokenizer.free and self.decoder == Constrained()

    def raw(self, model: VLA, batch: Batch) -> Int[Tensor, "B K"]:
        """The ids that `decoder` chooses; a row that is complete goes on with the stop id."""
        return self.decoder(model, prompt_of(batch), self.space).ids

    def after(self, model: VLA, batch: Batch, codes: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The ids that would be chosen, each as if those before it had been `codes`."""
        return After(codes)(model, prompt_of(batch), self.space).ids

    def actions(self, raw: Int[Tensor, "B K"]) -> Float[np.ndarray, "B T A"]:
        """The chunks that the codes before the stop id stand for."""
        tokenizer, dimension = self.space.tokenizer, self.space.action_dimension
        rows = (row[np.cumsum(row == self.space.stop_id) == 0] for row in raw.cpu().numpy())
        return np.stack([tokenizer.decode(row, action_dimension=dimension) for row in rows])

    @torch.no_grad()
    def outside_mass(self, model: VLA, batch: Batch) -> Float[np.ndarray, " B"]:
        """Probability that the model gives to other ids than action codes, mean over the codes of each row."""
        outside = Watched()(model, prompt_of(batch), self.space).outside
        assert outside is not None
        return outside.mean(dim=-1).cpu().numpy()

    @cached_property
    def _rows(self) -> Int[Tensor, " R"]:
        return torch.as_tensor([*self.space.tokenizer.allowed_ids.tolist(), self.space.stop_id])

    @cached_property
    def _targets(self) -> Float[Tensor, "R R"]:
        codes = torch.as_tensor(self.space.tokenizer.target_distributions(self.deviation), dtype=torch.float32)
        return torch.block_diag(codes, torch.ones(1, 1))


def prompt_of(batch: Batch) -> Batch:
    """The batch up to each row's first code: what is known before acting."""
    if batch.labels is None:
        return batch
    longest = int(batch.prompt_length.max())
    known = torch.arange(longest, device=batch.input_ids.device) < batch.prompt_length[:, None]
    return replace(
        batch,
        input_ids=batch.input_ids[:, :longest],
        attention_mask=batch.attention_mask[:, :longest] & known,
        placeholders=batch.placeholders[:, :longest],
        token_inputs={name: value[:, :longest] for name, value in batch.token_inputs.items()},
        labels=None,
    )
