"""Prefix-tuning: keys and values that stand for no word, learned for every layer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from vla_tune.adapters.base import AdapterReport, check_base, report
from vla_tune.adapters.changes import Changes
from vla_tune.adapters.files import read_tensors, write_tensors
from vla_tune.adapters.targets import learn_only, learned_within
from vla_tune.models.precision import weight_dtype
from vla_tune.models.prefixed_attention import CHILD, Prefix, use_prefixes

WEIGHTS_FILE = "prefix.safetensors"


@dataclass(frozen=True, kw_only=True)
class PrefixTuning:
    """`count` keys and values in front of those of every attention layer of the language model (arXiv 2101.00190, §4.2).

    Every position sees them: BOS, the patches behind it, the prompt, and the codes. They take no position of their own, so all
    others keep theirs. They are learned as they are: the paper's MLP around them is for training alone. The outputs differ from
    those of the base from the first step on.
    """

    count: int
    deviation: float = 0.5
    """Of the normal distribution that keys and values are drawn from; about that of the keys of a tiny base."""
    base: str = "bf16"

    def __post_init__(self) -> None:
        weight_dtype(self.base)
        if self.count < 1 or self.deviation < 0:
            raise ValueError(f"count={self.count}, deviation={self.deviation}: at least one, and no negative deviation.")

    def attach(self, model: nn.Module) -> AdapterReport:
        """Freeze the model and add the keys and values, in place; the first ones come from torch's generator.

        Raises:
            ValueError: the base has another format, there are prefixes already, or no layer of attention is known.
        """
        check_base(model, self.base)
        tower = cast(PreTrainedModel, model.get_submodule("language_model"))
        layers = [module for module in tower.modules() if hasattr(module, "k_proj") and hasattr(module, "head_dim")]
        if not layers or any(hasattr(layer, CHILD) for layer in layers):
            raise ValueError("no attention with k_proj and head_dim, or one that carries a prefix already: load the base again.")
        for layer in cast("list[Any]", layers):
            heads, device = layer.k_proj.out_features // layer.head_dim, layer.k_proj.weight.device
            layer.add_module(CHILD, Prefix(heads, self.count, layer.head_dim, deviation=self.deviation, device=device))
        learn_only(model, CHILD)
        use_prefixes(tower)
        return replace(report(model), context=f"{self.count} more keys and values in each of {len(layers)} layers")

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Write the keys and values, float32, as `prefix.safetensors`."""
        write_tensors(folder / WEIGHTS_FILE, learned_within(model, CHILD), base=self.base, base_hash=base_hash)

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read the keys and values into `model`, strictly."""
        read_tensors(folder / WEIGHTS_FILE, learned_within(model, CHILD), base=self.base, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{folder} holds a prefix, which is context and no change of weights. Run base and adapter together; the run's "
            "folder is all that is needed."
        )
