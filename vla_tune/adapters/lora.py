"""LoRA, and QLoRA: the same over a 4-bit base."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from vla_tune.adapters.base import AdapterReport, check_base, report
from vla_tune.adapters.changes import Changes, LowRank
from vla_tune.adapters.files import read_tensors, write_tensors
from vla_tune.adapters.lora_file import CONFIG_FILE, PREFIX, WEIGHTS_FILE, read_changes, read_config
from vla_tune.adapters.targets import EVERYTHING, full_names, target_names, whole_vocabulary
from vla_tune.models.patterns import counted, matching_names, name_regex
from vla_tune.models.precision import weight_dtype

NAME = "default"
"""Peft's name of the adapter that learns."""
_MEANING = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "modules_to_save",
    "use_rslora",
    "use_dora",
    "bias",
    "peft_type",
)
"""What of peft's configuration changes the function."""
_INITIALISATIONS: Mapping[str, Literal["gaussian"] | bool] = {"kaiming": True, "gaussian": "gaussian"}
"""Our names -> peft's."""
_LARGEST_RANK = 8192
SCALINGS = ("standard", "rank_stabilised")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """W + (alpha / rank) B A with A random and B zero, both float32 (LoRA, arXiv 2106.09685, §4.1).

    A k x k convolution gets a k x k convolution A to `rank` channels and a 1 x 1 convolution B, which is linear in W as well.
    With `base="nf4"` the W of the language model is 4-bit and frozen: QLoRA (arXiv 2305.14314, §3).
    """

    rank: int
    alpha: int
    targets: Sequence[str]
    """Patterns of linear layers and convolutions (`models.patterns`), e.g. `q_proj`."""
    dropout: float = 0.0
    base: str = "bf16"
    towers: Sequence[str] = ("language_model",)
    """Children of the model in which the targets lie; each holds at least one. None given: all."""
    initialisation: str = "kaiming"
    """Of A: kaiming, uniform with bound 1 / sqrt(inputs), or gaussian, normal with deviation 1 / rank."""
    learned_in_full: Sequence[str] = ()
    """Patterns of modules beside the targets whose own weights learn, in float32, e.g. `action_head`."""
    scaling: str = "standard"
    """Of B A: standard, alpha / rank, or rank_stabilised, alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732, theorem 3.2)."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Patterns of targets -> a rank of their own."""
    alphas: Mapping[str, int] = field(default_factory=dict)
    """Patterns of targets -> an alpha of their own; a rank of its own keeps the common alpha otherwise."""

    def __post_init__(self) -> None:
        weight_dtype(self.base)
        if self.initialisation not in _INITIALISATIONS:
            raise ValueError(f"initialisation={self.initialisation!r}: choose one of {', '.join(_INITIALISATIONS)}.")
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}: rank must be at least 1, "
                "alpha above 0, dropout in [0, 1)."
            )
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling={self.scaling!r}: choose one of {', '.join(SCALINGS)}.")
        if (largest := max([self.rank, *self.ranks.values()])) > _LARGEST_RANK:
            raise ValueError(f"rank={largest}: at most {_LARGEST_RANK}; a change of a higher rank is no smaller than the layers.")
        wrong = {pattern: value for pattern, value in [*self.ranks.items(), *self.alphas.items()] if value < 1}
        if wrong:
            raise ValueError(f"{wrong}: a rank or an alpha of its own must be at least 1.")

    def attach(self, model: nn.Module) -> AdapterReport:
        """Freeze the model and insert LoRA layers, in place; the initial values come from torch's generator."""
        if any(isinstance(module, LoraLayer) for module in model.modules()):
            raise ValueError("the model carries a LoRA adapter already: load the base again.")
        check_base(model, self.base)
        names = target_names(model, self.targets, self.towers)
        full_names(model, self.learned_in_full, beside=names)
        model.requires_grad_(False)
        inject_adapter_in_model(self._peft_config(names), model, adapter_name=NAME)
        for parameter in self.stored(model).values():
            parameter.data = parameter.data.to(torch.float32, copy=True)  # peft's have the dtype of the base; W may be in a file
            parameter.requires_grad_(True)
        assert [name for name, _ in layers(model)] == names, "peft matched other modules than we did"
        return replace(report(model), vocabulary=whole_vocabulary(model))

    def stored(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that learn, under the names of peft's files."""
        full = tuple(f"{name}." for name in full_names(model, self.learned_in_full))
        return {
            PREFIX + (_name_in_file(name) if ".lora_" in name else name): parameter
            for name, parameter in model.named_parameters()
            if ".lora_" in name or name.startswith(full)
        }

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Write the adapter in peft's own layout, with the base's hash in the header of the weights."""
        write_tensors(folder / WEIGHTS_FILE, self._in_file(model), base=self.base, base_hash=base_hash)
        (folder / CONFIG_FILE).write_text(json.dumps(self._record(model), indent=1, sort_keys=True) + "\n")

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read a saved adapter into `model`, strictly."""
        self._check_config(folder, model)
        read_tensors(folder / WEIGHTS_FILE, self.stored(model), base=self.base, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        """W + (alpha / rank) B A of each target, from the files; what learned in full as it is."""
        return read_changes(folder, base=self.base, base_hash=base_hash)

    def _check_config(self, folder: Path, model: nn.Module) -> None:
        saved, own = read_config(folder), self._record(model)
        different = {name: (saved.get(name), own[name]) for name in _MEANING if saved.get(name) != own[name]}
        if different:
            text = "; ".join(f"{name} is {there!r}, this adapter has {here!r}" for name, (there, here) in different.items())
            raise ValueError(f"{folder / CONFIG_FILE}: {text}. Use the adapter configuration of the training run.")

    def _in_file(self, model: nn.Module) -> Mapping[str, Tensor]:
        """What is saved."""
        return self.stored(model)

    def _peft_config(self, names: Sequence[str]) -> LoraConfig:
        """Of an adapter in the layers `names`."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._peft_targets(names),
            init_lora_weights=_INITIALISATIONS[self.initialisation],
            use_rslora=self.scaling == "rank_stabilised",
            rank_pattern=_by_layer(self.ranks, names),
            alpha_pattern=_by_layer(self.alphas, names),
            inference_mode=False,
        )

    def _peft_targets(self, names: Sequence[str]) -> str | list[str]:
        if list(self.targets) == EVERYTHING:
            return list(names)
        return name_regex(counted(self.targets, names), within=self.towers)

    def _peft_config_in_file(self, names: Sequence[str]) -> LoraConfig:
        """What a saved adapter says of itself."""
        return self._peft_config(names)

    def _record(self, model: nn.Module) -> dict[str, object]:
        full = full_names(model, self.learned_in_full)
        names = [name for name, _ in layers(model)]
        record = self._peft_config_in_file(names).to_dict() | {"inference_mode": True, "modules_to_save": full or None}
        return json.loads(json.dumps(record, default=lambda value: getattr(value, "value", None) or sorted(value)))


def training_context(model: nn.Module) -> AbstractContextManager[None]:
    """Inside an autocast: LoRA layers leave their input as it is instead of keeping a float32 copy of it for the gradient.

    Autocast rounds that copy to bfloat16 again, so the results are the same bit for bit. Outside an autocast a bfloat16 base
    needs the copies; do not enter this context there.
    """
    return disable_input_dtype_casting(model)


def update(layer: LoraLayer) -> Float[Tensor, "out *in"]:
    """(alpha / rank) B A in the shape of W, float32."""
    up, down = (factor(part, NAME).weight.detach() for part in (layer.lora_B, layer.lora_A))
    return LowRank(up, down, layer.scaling[NAME]).update()


def factor(part: nn.ModuleDict, name: str) -> nn.Linear | nn.Conv2d:
    """A or B of one of a layer's adapters."""
    linear = part[name]
    assert isinstance(linear, nn.Linear | nn.Conv2d)
    return linear


def _by_layer(values: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Each layer's own value, by its whole name.

    Raises:
        ValueError: a pattern matches no target, or two match the same one.
    """
    found: dict[str, int] = {}
    for pattern, value in values.items():
        for name in matching_names(names, [pattern]):
            if name in found:
                raise ValueError(f"{dict(values)}: two patterns match {name}; write them so that one does.")
            found[name] = value
    return found


def _name_in_file(name: str) -> str:
    """Peft's files leave its name for the adapter out, and what a magnitude is a parameter of."""
    return name.replace(f".lora_magnitude_vector.{NAME}.weight", ".lora_magnitude_vector").replace(f".{NAME}.", ".")


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The LoRA layers of a model, by the names of what they wrap."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
