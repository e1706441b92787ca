"""P-tuning: embeddings that stand for no word, learned in the input."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from vla_tune.adapters.base import AdapterReport, check_base, report
from vla_tune.adapters.changes import Changes
from vla_tune.adapters.files import read_tensors, write_tensors
from vla_tune.adapters.targets import learn_only, learned_within
from vla_tune.models.precision import weight_dtype
from vla_tune.models.virtual_tokens import VirtualTokens

WEIGHTS_FILE = "virtual_tokens.safetensors"
_CHILD = "virtual_tokens"


@dataclass(frozen=True, kw_only=True)
class PTuning:
    """`count` embeddings in the input, made of codes by a small network that learns with them (arXiv 2103.10385, §3.2).

    OpenVLA reads BOS, the patches, the state, these, and then the prompt, so that the patches stay where they are; a model of
    transformers, which puts its patches among the ids, reads them first. The outputs differ from those of the base from the
    first step on.
    """

    count: int
    hidden: int = 128
    """Width of the codes and of the network."""
    base: str = "bf16"

    def __post_init__(self) -> None:
        weight_dtype(self.base)
        if self.count < 1 or self.hidden < 1:
            raise ValueError(f"count={self.count}, hidden={self.hidden}: each must be at least 1.")

    def attach(self, model: nn.Module) -> AdapterReport:
        """Freeze the model and add the embeddings, in place; the first ones come from torch's generator.

        Raises:
            ValueError: the base has another format, or there are such embeddings already.
        """
        check_base(model, self.base)
        carrier = cast(Any, model)
        if carrier.virtual_tokens is not None:
            raise ValueError("the model carries virtual tokens already: load the base again.")
        embedding = carrier.get_input_embeddings().weight
        carrier.virtual_tokens = VirtualTokens(self.count, embedding.shape[1], self.hidden, device=embedding.device)
        learn_only(model, _CHILD)
        return replace(report(model), context=f"{self.count} more positions in every sequence")

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Write codes and network, float32, as `virtual_tokens.safetensors`."""
        write_tensors(folder / WEIGHTS_FILE, learned_within(model, _CHILD), base=self.base, base_hash=base_hash)

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read codes and network into `model`, strictly."""
        read_tensors(folder / WEIGHTS_FILE, learned_within(model, _CHILD), base=self.base, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{folder} holds virtual tokens, which are context and no change of weights. Run base and adapter together; the run's "
            "folder is all that is needed."
        )
