"""Actions as tokens of the language model's vocabulary: a chunk's codes, their loss, and a head that predicts all at once."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vla_tune.data.collate import Batch
from vla_tune.data.transforms import Sample
from vla_tune.models.base import VLA, Loss
from vla_tune.tokens import IGNORED, ActionTokenizer


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """What a chunk of actions is made of, as far as a head must know."""

    tokenizer: ActionTokenizer
    horizon: int
    """T."""
    action_dimension: int
    """A."""
    stop_id: int
    """The id that ends a sequence."""

    def rows(self, device: torch.device) -> Int[Tensor, " N"]:
        """The ids of the action codes on `device`, copied there once."""
        return _rows(self.tokenizer, device)


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
    softmax: Softmax = WholeVocabulary()

    def __post_init__(self) -> None:
        if not self.space.tokenizer.free:
            raise ValueError("codes of varying number cannot be predicted in parallel: choose head=autoregressive, or bins.")
        _ = self.targets  # a deviation that the tokenizer cannot have is refused now, not at the first step

    def over(self, network: VLA) -> "ParallelTokenModel":
        """The network, with its codes predicted in this way."""
        return ParallelTokenModel(network, self)

    @cached_property
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


@lru_cache(maxsize=16)
def _rows(tokenizer: ActionTokenizer, device: torch.device) -> Int[Tensor, " N"]:
    with torch.inference_mode(False):  # it serves training too
        return torch.as_tensor(tokenizer.allowed_ids, device=device)
