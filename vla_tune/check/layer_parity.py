"""Whether merged layers are what was trained, on what really reaches them: for models of which two do not fit into memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from vla_tune.adapters.changes import Changes
from vla_tune.policy import LocalPolicy
from vla_tune.policy.local import to_sample
from vla_tune.schema import Observation


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Merged layers against base plus change in float32, on the same inputs."""

    layers: tuple[str, ...]
    """In the order in which the forward pass reaches them."""
    errors: tuple[float, ...]
    """|merged - trained| / |trained| of each layer's outputs."""
    effects: tuple[float, ...]
    """|base - trained| / |trained|: what the adapter does."""
    allowed_error: float
    """Of a layer."""
    allowed_share: float
    """Of all errors together, of all effects together."""

    @property
    def share(self) -> float:
        """All errors over all effects (roots of the sums of squares)."""
        effect = _norm(self.effects)
        return _norm(self.errors) / effect if effect > 0 else float("inf")

    @property
    def passed(self) -> bool:
        """Whether the errors are small, and small against what the adapter does."""
        worst = np.max(self.errors)  # of one that is no number, Python's max would say nothing
        return bool(worst <= self.allowed_error and self.share <= self.allowed_share)

    def __str__(self) -> str:
        """The verdict and its numbers."""
        verdict = "merged layers are what was trained" if self.passed else "merged layers are NOT what was trained"
        head = (
            f"{verdict}: error {self.share:.3f} of the adapter's effect (at most {self.allowed_share}), in a layer at most "
            f"{max(self.errors):.5f} of the output (at most {self.allowed_error})"
        )
        rows = zip(self.layers, self.errors, self.effects, strict=True)
        return "\n".join([head, *(f"  {name}: error {error:.5f}, effect {effect:.5f}" for name, error, effect in rows)])


def layer_parity(
    merged: LocalPolicy,
    changes: Changes,
    weights: Mapping[str, Tensor],
    observations: Sequence[Observation],
    *,
    count: int,
    allowed_error: float = 0.01,
    allowed_share: float = 0.5,
) -> LayerReport:
    """Compare the first `count` changed layers of `merged`.

    The forward pass of the merged policy ends behind the last of them: of weights that are mapped to their files no more are read.

    Args:
        merged: Read back from what was written.
        changes: What the adapter makes of the base.
        weights: The base as training multiplied with it.
        observations: Recorded frames.
        count: Of layers.
        allowed_error: Largest relative error of a layer.
        allowed_share: Largest error as a share of the adapter's effect.

    Raises:
        ValueError: there are no observations, or no changed layer is reached.
    """
    if not observations:
        raise ValueError("no observations: layers are compared on recorded frames; record at least one.")
    layers = _changed_layers(merged.model.network, changes)
    inputs = _inputs(merged, layers, observations, count=count)
    if not inputs:
        raise ValueError("the forward pass reaches no layer that the adapter changes: gate=policy compares whole policies.")
    errors, effects = [], []
    for name, seen in inputs.items():
        layer, weight = layers[name], weights[f"{name}.weight"]
        trained = _output(layer, changes[f"{name}.weight"](weight), seen)
        outputs = [_output(layer, other, seen) for other in (layer.weight.detach(), weight)]
        error, effect = (((output - trained).norm() / trained.norm()).item() for output in outputs)
        errors.append(error)
        effects.append(effect)
    limits = {"allowed_error": allowed_error, "allowed_share": allowed_share}
    return LayerReport(layers=tuple(inputs), errors=tuple(errors), effects=tuple(effects), **limits)


class _Enough(Exception):  # noqa: N818 (it is no error)
    """The layers that are compared were reached."""


def _changed_layers(network: Any, changes: Changes) -> dict[str, nn.Linear | nn.Conv2d]:
    named = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    return {name: module for name, module in named.items() if f"{name}.weight" in changes}


def _inputs(
    policy: LocalPolicy, layers: Mapping[str, nn.Module], observations: Sequence[Observation], *, count: int
) -> dict[str, Tensor]:
    """What reaches the first `count` of `layers`."""
    seen: dict[str, Tensor] = {}

    def look(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(seen) == count:
            raise _Enough
        seen[name] = inputs[0].detach().float()

    samples = [policy.pipeline(to_sample(observation, policy.contract.embodiment)) for observation in observations]
    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in layers.items()]
    try:
        policy.forward(policy.forward.answer, samples)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _output(layer: nn.Module, weight: Tensor, inputs: Tensor) -> Float[Tensor, "..."]:
    """Of the layer with another weight, in float32, without its bias, which is the same everywhere."""
    with torch.no_grad():
        held = {"weight": weight.float()} | ({"bias": torch.zeros(len(weight))} if getattr(layer, "bias", None) is not None else {})
        return functional_call(layer, held, (inputs,))


def _norm(values: Sequence[float]) -> float:
    return sum(value**2 for value in values) ** 0.5
