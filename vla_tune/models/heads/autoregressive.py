"""Actions as tokens of the language model's vocabulary, one after the other."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA, Loss
from vla_tune.models.heads.codes import (
    ActionSpace,
    Softmax,
    WholeVocabulary,
    behind_prompt,
    code_losses,
    everywhere,
    log_probabilities,
)
from vla_tune.models.heads.decoding import After, Constrained, Decoder, Watched


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
        _ = self.targets, self.rows  # a deviation that the tokenizer cannot have is refused now, not at the first step

    def over(self, network: VLA) -> "AutoregressiveTokenModel":
        """The network, with its codes said in this way."""
        return AutoregressiveTokenModel(network, self)

    @cached_property
    def rows(self) -> Int[Tensor, " R"]:
        """The ids that have a label: action codes and the stop id."""
        return torch.as_tensor([*self.space.tokenizer.allowed_ids.tolist(), self.space.stop_id])

    @cached_property
    def targets(self) -> Float[Tensor, "R R"]:
        """Of each of `rows`: how likely every one of them is to be."""
        codes = torch.as_tensor(self.space.tokenizer.target_distributions(self.deviation), dtype=torch.float32)
        return torch.block_diag(codes, torch.ones(1, 1))


@dataclass(frozen=True, eq=False)
class AutoregressiveTokenModel:
    """A network that says its codes one after the other (an `ActionModel`)."""

    network: VLA
    head: AutoregressiveTokenHead

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy and token accuracy at the labelled positions."""
        return code_losses(self.network, batch, rows=self.head.rows, targets=self.head.targets, softmax=self.head.softmax)

    @torch.no_grad()
    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """The codes that `decoder` chooses, decoded."""
        return self.actions(self.raw(batch))

    @property
    def replayable(self) -> bool:
        """Where the number of codes is known beforehand."""
        return self.free and self.decoder == Constrained()

    @property
    def free(self) -> bool:
        """Whether each code stands for one action value: not those of FAST."""
        return self.head.space.tokenizer.free

    @property
    def decoder(self) -> Decoder:
        """What chooses the codes."""
        return self.head.decoder

    def decoding_by(self, decoder: Decoder) -> "AutoregressiveTokenModel":
        """The same model, whose codes another decoder chooses."""
        return replace(self, head=replace(self.head, decoder=decoder))

    def raw(self, batch: Batch) -> Int[Tensor, "B K"]:
        """The ids that `decoder` chooses; a row that is complete goes on with the stop id."""
        return self.decoder(self.network, prompt_of(batch), self.head.space).ids

    def after(self, batch: Batch, codes: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The ids that would be chosen, each as if those before it had been `codes`."""
        return After(codes)(self.network, prompt_of(batch), self.head.space).ids

    def actions(self, raw: Int[Tensor, "B K"]) -> Float[np.ndarray, "B T A"]:
        """The chunks that the codes before the stop id stand for."""
        space = self.head.space
        rows = (row[np.cumsum(row == space.stop_id) == 0] for row in raw.cpu().numpy())
        return np.stack([space.tokenizer.decode(row, action_dimension=space.action_dimension) for row in rows])

    @torch.no_grad()
    def outside_mass(self, batch: Batch) -> Float[np.ndarray, " B"]:
        """Probability that the model gives to other ids than action codes, mean over the codes of each row."""
        outside = Watched()(self.network, prompt_of(batch), self.head.space).outside
        assert outside is not None
        return outside.mean(dim=-1).cpu().numpy()

    def log_probabilities(self, batch: Batch) -> Float[Tensor, " B"]:
        """Of each row's labels together, in nats."""
        return log_probabilities(self.network, batch, rows=self.head.rows, softmax=self.head.softmax)

    def reaction(self, batch: Batch) -> Float[Tensor, "B V"]:
        """Logits behind the prompt."""
        return behind_prompt(self.network, batch)

    def answer(self, batch: Batch) -> Float[Tensor, "places V"]:
        """Logits at every position of every row."""
        return everywhere(self.network, batch)


def prompt_of(batch: Batch) -> Batch:
    """The batch up to each row's first code: what is known before acting."""
    if batch.labels is None:
        return batch
    longest = int(batch.prompt_length.max())
    known = torch.arange(longest, device=batch.input_ids.device) < batch.prompt_length[:, None]
    attention_mask, placeholders = batch.attention_mask[:, :longest] & known, batch.placeholders[:, :longest]
    return replace(
        batch,
        input_ids=batch.input_ids[:, :longest],
        attention_mask=attention_mask,
        placeholders=placeholders,
        parallel=bool((placeholders & ~known).any()),
        padded=not bool(attention_mask.all()),
        token_inputs={name: value[:, :longest] for name, value in batch.token_inputs.items()},
        labels=None,
    )
