"""Recipes: which one a choice of model and data composes, and what a run that has none must be told."""

from collections.abc import Iterator
from math import floor
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

NONE = "none"
"""The option of `experiment=` that sets nothing."""
_GROUP, _DEFAULTS = "experiment", "default"


def recipe_for(pair: str) -> str:
    """The option of `experiment=` that a model and data (`tiny_tabletop`) compose by themselves: `none`, where they have no own."""
    return f"{_DEFAULTS}/{pair}" if pair in _options(f"{_GROUP}/{_DEFAULTS}") else NONE


def named_alike(group: str, name: str, otherwise: str) -> str:
    """The option of a group whose words a name has, in their order: `libero_128` for `libero_object_fast_128`; else `otherwise`."""
    alike = [option for option in _options(group) if _within(option.split("_"), name.split("_"))]
    return max(alike, key=lambda option: (option.count("_"), len(option)), default=otherwise)


def _within(words: list[str], others: list[str]) -> bool:
    left = iter(others)
    return all(word in left for word in words)


def recipes() -> list[str]:
    """The names that `experiment=` takes, where a configuration is being composed."""
    return [name for name in _options(_GROUP) if name != NONE]


def share_of(share: float, whole: Any, least: int = 0, most: int | None = None) -> Any:
    """So many of `whole` steps, rounded down, at least `least` and at most `most`; what is no number stays, to be refused."""
    if not isinstance(whole, int) or isinstance(whole, bool):
        return whole
    found = max(floor(share * whole + 1e-9), least)
    return found if most is None else min(found, most)


def check_complete(cfg: DictConfig, *, under: str = "") -> None:
    """Every key has a value: no model and no robot is trained with the numbers of another.

    Args:
        cfg: A run's.
        under: Only keys that begin with it are looked at.

    Raises:
        ValueError: some are missing; they are named, and the recipes that have them.
    """
    missing = [key for key in _missing(OmegaConf.to_container(cfg)) if key.startswith(under)]
    if not missing:
        return
    known = f" (experiment={', '.join(recipes())})" if recipes() else ""
    remedy = f", or choose a recipe{known}" if any(key.startswith("training.") for key in missing) else ""
    raise ValueError(f"{', '.join(missing)} must be said: give {' '.join(f'{key}=<value>' for key in missing)}{remedy}.")


def _missing(node: Any, above: str = "") -> Iterator[str]:
    """Dotted names of the keys without a value, in the order of the configuration."""
    if node == "???":
        yield above
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _missing(child, f"{above}.{key}" if above else str(key))


def _options(group: str) -> list[str]:
    found = GlobalHydra.instance()
    return found.config_loader().get_group_options(group, ObjectType.CONFIG) if found.is_initialized() else []
