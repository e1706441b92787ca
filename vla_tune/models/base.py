"""What training, policies, adapters and runs need of a vision-language-action model and of its checkpoint.

A model says its loss and acts (`ActionModel`); what only some can do besides is a small protocol of `models.capabilities`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vla_tune.data.collate import Batch
from vla_tune.data.pipeline import ModelInputs, ModelPart
from vla_tune.schema import Contract, Embodiment
from vla_tune.tokens import ActionTokenizer, TrainingActions


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, and how well each label was met."""

    per_label: Float[Tensor, " M"]
    """Loss of each label, a code or an action value, row by row; where nothing is to be learned there is no label."""
    correct: Bool[Tensor, " M"] | None
    """Whether the most likely code was the label; None where there are no codes."""
    rows: Int[Tensor, " M"]
    """The row of the batch that each label belongs to."""

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Mean over the labels."""
        return self.per_label.mean()


@runtime_checkable
class ActionModel(Protocol):
    """A model of actions, whatever is inside: it says its loss, and acts."""

    @property
    def network(self) -> Any:
        """The `nn.Module` with the weights: adapters, optimizers and files know its parameters by their names in it."""
        ...

    def loss(self, batch: Batch) -> Loss:
        """The training loss of each label of a batch that has labels and actions; what it draws, it draws from torch."""
        ...

    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """Normalised actions: in [-1, 1], and near it where they are no codes, or codes stand for frequencies (FAST).

        It draws nothing: a model whose actions are drawn takes the draw as an argument (`capabilities.Drawing`).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Where an autoregressive model stands: what it read so far, and the state that predicts the next id."""

    hidden: Float[Tensor, "B D"]
    """Final hidden state at the last position."""
    cache: Any
    """Keys and values of all positions; of the model's own kind."""
    seen: Bool[Tensor, "B L"] | None
    """Which of them are no padding; None where none is."""


@runtime_checkable
class VLA(Protocol):
    """A backbone: pixels, state and ids in; hidden states and vocabulary logits out."""

    def __call__(self, batch: Batch) -> Float[Tensor, "B L D"]:
        """Final hidden states at the positions of `batch.input_ids`."""
        ...

    def vocabulary_logits(
        self, hidden: Float[Tensor, "M D"], rows: Int[Tensor, " R"] | None = None
    ) -> Float[Tensor, "M vocabulary"]:
        """Float32 logits at chosen positions, over the whole vocabulary or over some of its rows only."""
        ...

    def prefill(self, batch: Batch) -> Decoding:
        """Read images, state and `batch.input_ids` once; rows may have different lengths, padded on the right."""
        ...

    def advance(self, ids: Int[Tensor, " B"], decoding: Decoding) -> Decoding:
        """Read one more id per row."""
        ...


@runtime_checkable
class RegressionVLA(VLA, Protocol):
    """A backbone that has a head for action values."""

    def action_values(self, hidden: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        """Normalised actions from the states that predict K = T A placeholders, time-major.

        Raises:
            ValueError: this model has no such head.
        """
        ...


@runtime_checkable
class ModelInterface(ModelInputs, Protocol):
    """A model's part of a contract, as its family reads it: what stands between a robot's samples and a network's two verbs."""

    @property
    def pad_id(self) -> int:
        """The id that fills up rows of text."""
        ...

    def over(self, network: Any) -> ActionModel:
        """The network as a model of actions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a new run wants of a model, beside its weights."""

    embodiment: Embodiment
    horizon: int
    """T."""
    actions: TrainingActions
    """To which action tokenizers are fitted."""
    tokens: Callable[..., ActionTokenizer] | None
    """What makes the action tokenizer for a vocabulary; None where the run asks for none."""
    head: Callable[..., Any] | None
    """What makes the head; None where the run asks for none."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model without memory for its weights, and what its modules do not say about themselves.

    For a model of any kind `Outline(model=..., loss=...)` is enough.
    """

    model: nn.Module
    """On the meta device."""
    loss: Callable[[nn.Module, int], Tensor] | None = None
    """The loss of a batch of so many rows, which a plan runs without memory: it must follow from shapes alone.

    None where all blocks are of the kinds that `plan.activations` has formulas for; then the fields below tell the rest.
    """
    image_tokens: int = 0
    """Positions of the sequence that one camera image takes."""
    state_tokens: int = 0
    """Positions that the robot's state takes."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens that one camera image is inside a module, by its name; language models and heads are left out."""
    head: str | None = None
    """Name of the linear layer that speaks the vocabulary, where one does."""
    nf4_targets: Sequence[str] = ()
    """Patterns of the linear layers that `base=nf4` keeps in 4 bits."""
    unreached: Sequence[str] = ()
    """Names of modules that no output depends on: they get no gradient."""


@runtime_checkable
class Outlined(Protocol):
    """A checkpoint whose architecture is known without its weights."""

    def outline(self) -> Outline:
        """The architecture, from the configuration alone.

        Raises:
            FileNotFoundError: the configuration is not on this machine.
        """
        ...


@runtime_checkable
class Checkpoint(Protocol):
    """A folder of weights and the form in which they are wanted."""

    @property
    def folder(self) -> str:
        """A path, or an id of the hub."""
        ...

    @property
    def base(self) -> str:
        """The weight format (`models.precision.FORMATS`)."""
        ...

    @property
    def path(self) -> Path:
        """Where the files lie."""
        ...

    def load(self, *, device: torch.device | str) -> Any:
        """The model (`VLA`, an `nn.Module`) on `device`, in evaluation mode."""
        ...

    def part(self, wanted: Wanted) -> ModelPart:
        """What the contract of a new run says of the model: how it was trained to be given its inputs, and what is wanted of it.

        Raises:
            ValueError: it cannot be what is wanted.
        """
        ...

    def interface(self, contract: Contract, *, head: Callable[..., Any] | None = None) -> ModelInterface:
        """The model's part of a contract, read; `head` says how it learns, and is None where it only acts.

        Raises:
            ValueError: the contract is another family's, or says what cannot be.
        """
        ...

    def content_hash(self) -> str:
        """SHA-256 of the weights."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """What the model multiplies with, by name, 4-bit weights dequantised; each is made when it is asked for, and not kept."""
        ...

    def write(self, folder: Path, tensors: Mapping[str, Tensor], contract: Contract) -> None:
        """The same architecture with other weights into an existing folder; they are asked for one after the other."""
        ...
