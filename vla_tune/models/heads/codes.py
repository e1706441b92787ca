"""Codes of a chunk: from its actions, and their cross-entropy over the whole vocabulary or over the rows of the codes alone."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vla_tune.data.collate import Batch
from vla_tune.data.transforms import Sample
from vla_tune.models.base import VLA, Loss
from vla_tune.tokens import IGNORED, ActionTokenizer


@dataclass(frozen=True)
class EncodeActions:
    """Normalised `actions` -> `codes`; values beyond the episode's end count nowhere."""

    tokenizer: ActionTokenizer
    horizon: int

    def __call__(self, sample: Sample) -> Sample:
        """Adds `codes` int64 [K] and `code_mask` bool [K]; an observation, which has no actions, passes.

        Where a code stands for several values, all codes count.

        Raises:
            ValueError: the chunk has another length than the contract's horizon.
        """
        if "actions" not in sample:
            return sample
        actions = sample["actions"]
        if len(actions) != self.horizon:
            raise ValueError(f"the dataset gives chunks of {len(actions)} actions, the contract says {self.horizon}.")
        codes = self.tokenizer.encode(actions)
        mask = sample["action_mask"].reshape(-1) if self.tokenizer.free else np.ones(len(codes), dtype=bool)
        return sample | {"codes": codes, "code_mask": mask}


@runtime_checkable
class Softmax(Protocol):
    """Probabilities of codes from hidden states."""

    def __call__(
        self, model: VLA, hidden: Float[Tensor, "M D"], rows: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, "M R"], Int[Tensor, " M"]]:
        """Log-probabilities of `rows`, and the most likely id."""
        ...


@dataclass(frozen=True)
class WholeVocabulary:
    """log softmax(z) over all rows of `lm_head`: the loss of OpenVLA (arXiv 2406.09246, §3.2), which also unlearns text."""

    def __call__(
        self, model: VLA, hidden: Float[Tensor, "M D"], rows: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, "M R"], Int[Tensor, " M"]]:
        """Log-probabilities of `rows` among all ids."""
        logits = model.vocabulary_logits(hidden)
        return logits[:, rows] - logits.logsumexp(dim=-1, keepdim=True), logits.argmax(dim=-1)


@dataclass(frozen=True)
class ActionRows:
    """log softmax(z) over the rows of the codes alone: decoding never reads the others, and `lm_head` is 125 times smaller."""

    def __call__(
        self, model: VLA, hidden: Float[Tensor, "M D"], rows: Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, "M R"], Int[Tensor, " M"]]:
        """Log-probabilities of `rows` among themselves."""
        logits = model.vocabulary_logits(hidden, rows)
        return F.log_softmax(logits, dim=-1), rows[logits.argmax(dim=-1)]


def before(positions: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """`positions` shifted one to the left: the hidden state at p - 1 predicts p."""
    return torch.cat([positions[:, 1:], positions.new_zeros(len(positions), 1)], dim=1)


def at_placeholders(hidden: Float[Tensor, "B L D"], batch: Batch, *, count: int) -> Float[Tensor, "B K D"]:
    """The states that predict the `count` neighbouring placeholders of each row; the first is that before the first placeholder."""
    steps = torch.arange(count, device=hidden.device)
    places = batch.prompt_length[:, None] - 1 + steps
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def code_losses(network: VLA, batch: Batch, *, rows: Int[Tensor, " R"], targets: Float[Tensor, "R R"], softmax: Softmax) -> Loss:
    """Cross-entropy and token accuracy at the labelled positions; a label is one of `rows`, its target the row's of `targets`."""
    positions = labelled(batch.labels)
    assert batch.labels is not None
    hidden, labels = network(batch)[before(positions)], batch.labels[positions]
    rows = rows.to(hidden.device)
    log_probabilities, best = softmax(network, hidden, rows)
    per_label = cross_entropy(log_probabilities, labels, rows=rows, targets=targets.to(hidden.device))
    return Loss(per_label, best == labels, rows_of(positions))


def log_probabilities(network: VLA, batch: Batch, *, rows: Int[Tensor, " R"], softmax: Softmax) -> Float[Tensor, " B"]:
    """Of the labels of each row together, in nats; a label is one of `rows`."""
    found = code_losses(network, batch, rows=rows, targets=torch.eye(len(rows)), softmax=softmax)
    return found.per_label.new_zeros(len(batch)).index_add(0, found.rows, -found.per_label)


def everywhere(network: VLA, batch: Batch) -> Float[Tensor, "places V"]:
    """Logits at every position of every row."""
    return network.vocabulary_logits(network(batch).flatten(0, 1))


def behind_prompt(network: VLA, batch: Batch) -> Float[Tensor, "B V"]:
    """Logits at the last position of each row's prompt."""
    return network.vocabulary_logits(at_placeholders(network(batch), batch, count=1)[:, 0])


def labelled(labels: Int[Tensor, "B L"] | None) -> Bool[Tensor, "B L"]:
    """Where there is something to learn."""
    assert labels is not None, "a batch without labels has no loss"
    return labels != IGNORED


def rows_of(labelled: Bool[Tensor, "*places"]) -> Int[Tensor, " M"]:
    """Where on the first axis each true value lies."""
    return labelled.nonzero()[:, 0]


def cross_entropy(
    log_probabilities: Float[Tensor, "M R"],
    labels: Int[Tensor, " M"],
    *,
    rows: Int[Tensor, " R"],
    targets: Float[Tensor, "R R"],
) -> Float[Tensor, " M"]:
    """-sum_j t_j log p_j, where t is the row of `targets` of each label, an id of `rows`."""
    order = rows.argsort()
    found = order[torch.searchsorted(rows[order], labels)]
    return -(targets[found] * log_probabilities).sum(dim=-1)
