"""Which modules of a model an adapter changes, and which learn in full beside it."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from vla_tune.models.patterns import matching_names

EVERYTHING = ["*"]


def target_names(model: nn.Module, targets: Sequence[str], towers: Sequence[str]) -> list[str]:
    """Names of the linear layers and convolutions that match, in the model's order; `*` alone means all of them.

    Raises:
        ValueError: a pattern or a tower matches nothing, something else matches too, or a layer shares its weights.
    """
    children = [name for name, _ in model.named_children()]
    if unknown := sorted(set(towers) - set(children)):
        raise ValueError(
            f"towers={list(towers)}: the model has no {unknown[0]}; its parts are {', '.join(children)}. Name some in "
            "adapter.towers, or choose a targets@adapter= that does (vision_qwen, vision_tower, vision_model for the eyes)."
        )
    modules = dict(model.named_modules())
    names = matching_names([name for name, module in modules.items() if _is_linear_map(module)], targets, within=towers)
    others = [name for name in matching_names(list(modules), targets, within=towers) if name not in names]
    if others and list(targets) != EVERYTHING:
        kind = type(modules[others[0]]).__name__
        raise ValueError(
            f"targets={list(targets)} also match {others[0]} ({kind}), no linear layer: use narrower patterns, e.g. *_proj."
        )
    empty = sorted(set(towers) - {name.split(".")[0] for name in names})
    if empty:
        raise ValueError(f"towers={list(towers)}: no target lies in {empty[0]}; the model has {', '.join(children)}. Leave it out.")
    _refuse_shared(model, names)
    return names


def full_names(model: nn.Module, patterns: Sequence[str], *, beside: Sequence[str] = ()) -> list[str]:
    """Names of the modules that learn in full, without those inside another of them.

    What a model calls `untrained` is among them without being asked for: frozen, it would say nothing.

    Args:
        model: what they are sought in.
        patterns: of module names (`models.patterns`); none is allowed.
        beside: names of the layers that get a low-rank change.

    Raises:
        ValueError: a pattern matches nothing, or a layer would learn both ways, or has no weights that can learn.
    """
    patterns = [*patterns, *getattr(model, "untrained", ())]
    if not patterns:
        return []
    modules = {name: module for name, module in model.named_modules() if name and ".lora_" not in name}
    found = matching_names(list(modules), patterns)
    names = [name for name in found if not any(_inside(name, other) for other in found if other != name)]
    for name in names:
        twice = [target for target in beside if _inside(target, name) or _inside(name, target)]
        if twice:
            raise ValueError(f"learned_in_full={list(patterns)} match {name}, and {twice[0]} is a target already: choose one.")
        weights = list(modules[name].parameters())
        if not weights or not all(weight.is_floating_point() for weight in weights):
            raise ValueError(f"{name} has no weights, or 4-bit ones, which cannot learn: leave it out of learned_in_full.")
    return names


def learn_only(model: nn.Module, child: str) -> None:
    """Freeze everything but what an adapter put into the children named `child`, and what was added to the base, in float32."""
    model.requires_grad_(False)
    for parameter in learned_within(model, child).values():
        parameter.data = parameter.data.to(torch.float32, copy=True)
        parameter.requires_grad_(True)


def learned_within(model: nn.Module, child: str) -> dict[str, nn.Parameter]:
    """Name -> parameter, of the children named `child` and of what was added to the base."""
    added = tuple(f"{name}." for name in full_names(model, ()))
    return {name: parameter for name, parameter in model.named_parameters() if f".{child}." in f".{name}" or name.startswith(added)}


def whole_vocabulary(model: nn.Module) -> int:
    """Numbers of embedding and output layer that learn, in a model whose action codes have rows of their own."""
    if "action_rows" not in getattr(model, "untrained", ()):
        return 0
    parts = (model.get_input_embeddings(), model.lm_head)  # pyright: ignore[reportCallIssue]
    return sum({id(weight): weight.numel() for part in parts for weight in part.parameters() if weight.requires_grad}.values())  # pyright: ignore[reportAttributeAccessIssue]


def _is_linear_map(module: nn.Module) -> bool:
    """A linear layer, or a convolution of the kind that B A can be added to."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def _inside(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _refuse_shared(model: nn.Module, names: Sequence[str]) -> None:
    """A change of one layer must be none of another; a merged checkpoint could not say so."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    shared = [name for name in names if uses[id(model.get_submodule(name).weight)] > 1]
    if shared:
        raise ValueError(f"{shared[0]} shares its weights with another module (tied embeddings), so it cannot be a target.")
