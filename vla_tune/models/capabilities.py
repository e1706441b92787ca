"""What only some models of actions can do: protocols that are asked for where the ability is needed."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel


@runtime_checkable
class Drawing(ActionModel, Protocol):
    """A model whose actions come of a draw, as those of flow matching and diffusion do."""

    def noise(self, rows: int, generator: torch.Generator) -> Float[Tensor, "B ..."]:
        """A draw for each of `rows` observations, on the generator's device."""
        ...

    def act(self, batch: Batch, *, noise: Float[Tensor, "B ..."]) -> Float[np.ndarray, "B T A"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalised actions that follow from the batch and the draw alone."""
        ...


@runtime_checkable
class Launchable(Protocol):
    """A model whose work on the device ends in one tensor."""

    @property
    def replayable(self) -> bool:
        """Whether nothing is read back from the device on the way, so that `raw` can be a CUDA graph."""
        ...

    def raw(self, batch: Batch) -> Int[Tensor, "B K"] | Float[Tensor, "B T A"]:
        """All that is computed on the device."""
        ...

    def actions(self, raw: Int[Tensor, "B K"] | Float[Tensor, "B T A"]) -> Float[np.ndarray, "B T A"]:
        """Normalised actions from what `raw` gave; `act` is one after the other."""
        ...


@runtime_checkable
class SpeaksCodes(Protocol):
    """A model whose actions are codes of a vocabulary."""

    def outside_mass(self, batch: Batch) -> Float[np.ndarray, " B"]:
        """Probability that the model gives to other ids than action codes, mean over the codes of each row."""
        ...


@runtime_checkable
class GivesLogProbabilities(Protocol):
    """A model that says how likely a chunk is: held-out chunks are judged by it, and learning from preferences would need it."""

    def log_probabilities(self, batch: Batch) -> Float[Tensor, " B"]:
        """Of the labels of each row of a batch together, given what is seen there, in nats."""
        ...


@runtime_checkable
class SpeaksInOrder(Protocol):
    """A model that says its codes one after the other."""

    @property
    def free(self) -> bool:
        """Whether each code stands for one action value, whatever the others are."""
        ...

    @property
    def decoder(self) -> Any:
        """What chooses the codes (`models.heads.decoding.Decoder`)."""
        ...

    def decoding_by(self, decoder: Any) -> ActionModel:
        """The same model, whose codes another decoder chooses."""
        ...

    def raw(self, batch: Batch) -> Int[Tensor, "B K"]:
        """The ids that it says; a row that is complete goes on with the stop id."""
        ...

    def after(self, batch: Batch, codes: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The ids that would be chosen, each as if those before it had been `codes`."""
        ...

    def actions(self, raw: Int[Tensor, "B K"]) -> Float[np.ndarray, "B T A"]:
        """The chunks that the ids stand for."""
        ...


@runtime_checkable
class Revealing(Protocol):
    """A model that shows the numbers behind its actions: a small change is seen in them which the most likely code would hide."""

    def reaction(self, batch: Batch) -> Float[Tensor, "B N"]:
        """What images, state and prompt lead to, before anything is chosen."""
        ...

    def answer(self, batch: Batch) -> Float[Tensor, "..."]:
        """All that one pass computes for a batch, so that two models can be compared bit for bit."""
        ...


@runtime_checkable
class HasVocabulary(Protocol):
    """A checkpoint of a language model, whose codes are ids."""

    @property
    def vocabulary_size(self) -> int:
        """V: action codes are counted down from here."""
        ...
