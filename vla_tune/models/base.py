"""What a head, an adapter and a policy need of a vision-language-action model."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from vla_tune.data.collate import Batch


@runtime_checkable
class VLA(Protocol):
    """A backbone: pixels, state and ids in; hidden states and vocabulary logits out."""

    def __call__(self, batch: Batch) -> Float[Tensor, "B L D"]:
        """Final hidden states at the positions of `batch.input_ids`."""
        ...

    def vocabulary_logits(self, hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M vocabulary"]:
        """Float32 logits at chosen positions."""
        ...
