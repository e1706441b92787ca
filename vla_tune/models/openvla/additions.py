"""What OpenVLA-OFT puts beside a base (arXiv 2502.19645, §4): modules that learn in full, whatever the rest does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vla_tune.models.openvla.config import OpenVLAConfig


@runtime_checkable
class Addition(Protocol):
    """Modules of an OpenVLA model that its base may not have."""

    @property
    def modules(self) -> Sequence[str]:
        """Patterns of their names (`models.patterns`)."""
        ...

    def extend(self, config: OpenVLAConfig) -> None:
        """Write them into the configuration, in place; a base that has them already keeps them with their weights.

        Raises:
            ValueError: the base has them in another size.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Regression:
    """The head that turns hidden states into action values (`action_head.ActionHead`)."""

    modules: ClassVar[Sequence[str]] = ("action_head",)
    action_dimension: int
    """A."""

    def extend(self, config: OpenVLAConfig) -> None:
        """An action head of A outputs."""
        _set(config, "action_head_dimension", self.action_dimension, "action head")


@dataclass(frozen=True, kw_only=True)
class Proprioception:
    """The robot's normalised state as one token behind the patches (`projector.ProprioProjector`)."""

    modules: ClassVar[Sequence[str]] = ("proprio_projector",)
    state_dimension: int
    """S."""

    def extend(self, config: OpenVLAConfig) -> None:
        """A projector of S inputs."""
        _set(config, "proprio_dimension", self.state_dimension, "proprioception projector")


@dataclass(frozen=True, kw_only=True)
class Film:
    """Vision towers that listen to the instruction (`film.filmed_features`)."""

    modules: ClassVar[Sequence[str]] = ("vision_backbone.*.scale", "vision_backbone.*.shift")

    def extend(self, config: OpenVLAConfig) -> None:
        """Scales and shifts in every block of every tower."""
        _set(config, "film_dimension", config.text_config.hidden_size, "FiLM")


def _set(config: OpenVLAConfig, field: str, size: int, name: str) -> None:
    found = getattr(config, field)
    if found not in (0, size):
        raise ValueError(
            f"the base has a {name} of {found} dimensions, the data have {size}: use a base without one, or that robot's data."
        )
    setattr(config, field, size)


def module_patterns(additions: Iterable[Addition]) -> tuple[str, ...]:
    """Of all `additions`."""
    return tuple(pattern for addition in additions for pattern in addition.modules)


def initial_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Weights of the modules below `names` as their classes draw them, from torch's generator, in float32; `model` is empty."""
    drawn: dict[str, Tensor] = {}
    for name in names:
        for inner, module in model.get_submodule(name).named_modules(prefix=name):
            own = dict(module.named_parameters(recurse=False))
            if own:
                module.to_empty(device="cpu", recurse=False)
                module.reset_parameters()  # pyright: ignore[reportCallIssue] (linear layers and norms)
                drawn |= {f"{inner}.{leaf}": parameter.detach() for leaf, parameter in module.named_parameters(recurse=False)}
    assert all(tensor.dtype == torch.float32 for tensor in drawn.values())
    return drawn
