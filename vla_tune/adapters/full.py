"""Full fine-tuning: the weights themselves learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from vla_tune.adapters.base import AdapterReport, check_base, report
from vla_tune.adapters.changes import Changes, Learned
from vla_tune.adapters.files import open_tensors_of, read_tensors, write_tensors
from vla_tune.adapters.targets import full_names
from vla_tune.models.patterns import matching_names

TRAINED_FILE = "trained_weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Full:
    """Every parameter that matches learns, and what was added to the base; the rest is frozen.

    Raises:
        ValueError: `base` is not fp32: a step of AdamW moves a weight by about the learning rate, which bfloat16 with its
            eight bits rounds away.
    """

    targets: Sequence[str] = ("*",)
    """Patterns of parameter names (`models.patterns`), e.g. `language_model.*`."""
    base: str = "fp32"

    def __post_init__(self) -> None:
        if self.base != "fp32":
            raise ValueError(f"base={self.base}: weights that learn are kept in fp32: use base=fp32, or LoRA.")

    def attach(self, model: nn.Module) -> AdapterReport:
        """Let the matching parameters learn, in place."""
        check_base(model, self.base)
        parameters = dict(model.named_parameters())
        learning = set(matching_names(list(parameters), self.targets))
        added = tuple(f"{name}." for name in full_names(model, ()))
        learning |= {name for name in parameters if name.startswith(added)}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in learning)
        return report(model)

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Write the weights that learn, float32, as `trained_weights.safetensors`."""
        write_tensors(folder / TRAINED_FILE, _learning(model), base=self.base, base_hash=base_hash)

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read the weights that learn into `model`, strictly."""
        read_tensors(folder / TRAINED_FILE, _learning(model), base=self.base, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        """The weights that learned, from the file."""
        tensors = open_tensors_of(folder / TRAINED_FILE, base=self.base, base_hash=base_hash)
        return {name: Learned(tensor) for name, tensor in tensors.items()}


def _learning(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
