"""The codes by which the tabletop's base says where the named object is, before those of a chunk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from vla_tune.data.collate import Batch
from vla_tune.data.transforms import Sample
from vla_tune.models.base import ActionModel, Loss
from vla_tune.models.heads.codes import labelled
from vla_tune.tokens import ActionTokenizer, ActionTokens, BinTokenizer, uniform_edges


@dataclass(frozen=True)
class PrependLocation:
    """Codes that say where the named object is, before those of the chunk: a policy must find what it is told to act on.

    A pretraining sample has `location` [num_codes] in [-1, 1]; its codes are uniform bins. Demonstrations have none: then these
    labels count nowhere, and the positions stay, because the model's sequence does not change between training and acting.
    """

    num_codes: int
    vocabulary_size: int

    def __call__(self, sample: Sample) -> Sample:
        """`codes` and `code_mask`, longer by `num_codes` in front; an observation passes."""
        if "codes" not in sample or not self.num_codes:
            return sample
        known = "location" in sample
        codes = self._tokenizer.encode(sample["location"][None]) if known else self._nowhere
        assert len(codes) == self.num_codes, f"a location of {len(codes)} numbers for {self.num_codes} codes"
        return sample | {
            "codes": np.concatenate([codes, sample["codes"]]),
            "code_mask": np.concatenate([np.full(self.num_codes, known), sample["code_mask"]]),
        }

    @cached_property
    def _nowhere(self) -> Int[np.ndarray, " K"]:
        return self._tokenizer.encode(np.zeros((1, self.num_codes)))

    @cached_property
    def _tokenizer(self) -> BinTokenizer:
        return BinTokenizer(uniform_edges(256), self.vocabulary_size)


@dataclass(frozen=True, eq=False)
class Located:
    """An action tokenizer whose chunks stand behind the codes of a location, which are not decoded (an `ActionTokenizer`)."""

    tokenizer: ActionTokenizer
    location_codes: int

    @property
    def allowed_ids(self) -> Int[np.ndarray, " N"]:
        """The tokenizer's: a location is said in the same codes."""
        return self.tokenizer.allowed_ids

    @property
    def resolution(self) -> float:
        """The tokenizer's."""
        return self.tokenizer.resolution

    @property
    def free(self) -> bool:
        """As the tokenizer's chunks are."""
        return self.tokenizer.free

    def check(self, horizon: int, action_dimension: int) -> None:
        """As the tokenizer does."""
        self.tokenizer.check(horizon, action_dimension)

    def num_codes(self, horizon: int, action_dimension: int) -> int:
        """K, those of the location among them."""
        return self.location_codes + self.tokenizer.num_codes(horizon, action_dimension)

    def encode(self, actions: Float[np.ndarray, "T A"]) -> Int[np.ndarray, " K"]:
        """Codes of a chunk alone (`PrependLocation` knows the location)."""
        return self.tokenizer.encode(actions)

    def decode(self, codes: Int[np.ndarray, " K"], *, action_dimension: int) -> Float[np.ndarray, "T A"]:
        """The chunk behind the location."""
        return self.tokenizer.decode(codes[self.location_codes :], action_dimension=action_dimension)

    def allowed_next(self, codes: Sequence[int], *, horizon: int, action_dimension: int) -> Int[np.ndarray, " n"]:
        """Every code in the location, then what the tokenizer allows."""
        chunk = codes[self.location_codes :]
        inside = len(codes) < self.location_codes
        return (
            self.allowed_ids if inside else self.tokenizer.allowed_next(chunk, horizon=horizon, action_dimension=action_dimension)
        )

    def target_distributions(self, deviation: float) -> Float[np.ndarray, "N N"]:
        """The tokenizer's."""
        return self.tokenizer.target_distributions(deviation)

    def to_record(self) -> ActionTokens:
        """What a contract keeps of the tokenizer; the number of location codes stands beside it."""
        return self.tokenizer.to_record()


@dataclass(frozen=True, eq=False)
class WeighedLocation:
    """A model whose location codes weigh more than an action's in the loss of pretraining (an `ActionModel`)."""

    model: ActionModel
    location_codes: int
    weight: float

    @property
    def network(self) -> Any:
        """The model's."""
        return self.model.network

    def loss(self, batch: Batch) -> Loss:
        """Its loss, `weight` times that of the first codes of each row."""
        found = self.model.loss(batch)
        rank = batch.placeholders.cumsum(dim=1)[labelled(batch.labels)]
        weights = torch.where(rank <= self.location_codes, self.weight, 1.0)
        return replace(found, per_label=weights * found.per_label)

    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """As the model does."""
        return self.model.act(batch)
