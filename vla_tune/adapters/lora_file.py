"""LoRA adapters in peft's layout, read without a model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vla_tune.adapters.changes import Change, Changes, Learned, LowRank
from vla_tune.adapters.files import open_tensors_of
from vla_tune.schema import read_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft puts in front of every name in a file."""
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def read_config(folder: Path) -> dict[str, Any]:
    """Peft's `adapter_config.json` in `folder`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: name the folder that the training run saved.")
    return read_object(path)


def read_changes(folder: Path, *, base: str, base_hash: str) -> Changes:
    """What a LoRA adapter that we saved makes of its base: low-rank changes, and the weights that learned in full beside them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it belongs to another base, it never learned, or its tensors are not those of its configuration.
    """
    record, path = read_config(folder), folder / WEIGHTS_FILE
    tensors = open_tensors_of(path, base=base, base_hash=base_hash)
    layers = list(dict.fromkeys(name.split(".lora_")[0] for name in tensors if ".lora_" in name))
    changes: dict[str, Change] = {
        f"{layer.removeprefix(PREFIX)}.weight": _low_rank(path, layer, tensors, record) for layer in layers
    }
    full = tuple(f"{PREFIX}{name}." for name in record.get("modules_to_save") or ())
    for name in [name for name in tensors if full and name.startswith(full)]:
        changes[name.removeprefix(PREFIX)] = Learned(tensors.pop(name))
    if tensors:
        raise ValueError(f"{path}: {len(tensors)} tensors left over (first {next(iter(tensors))}): the file is not what was saved.")
    check_learned(changes)
    return changes


def check_learned(changes: Changes) -> None:
    """Refuse an adapter in which no B moved from zero.

    Raises:
        ValueError: the adapter changes nothing.
    """
    layers = [change for change in changes.values() if isinstance(change, LowRank)]
    if layers and not any(layer.up.any() for layer in layers):
        raise ValueError(
            f"every B of the {len(layers)} LoRA layers is zero: the adapter was never trained, or another file was read."
        )


def _low_rank(path: Path, layer: str, tensors: dict[str, Tensor], record: Mapping[str, Any]) -> LowRank:
    """Takes the tensors of one layer out of `tensors`."""
    wanted = [_A, _B, *([_MAGNITUDE] if record.get("use_dora") else [])]
    missing = [layer + part for part in wanted if layer + part not in tensors]
    if missing:
        raise ValueError(f"{path}: {missing[0]} is missing: the file is not what was saved; copy it again.")
    down, up, *magnitude = (tensors.pop(layer + part) for part in wanted)
    rank = _own(record, "rank_pattern", layer, record["r"])
    if len(down) != rank or up.shape[1] != rank:
        raise ValueError(f"{path}: {layer} has rank {len(down)}, {CONFIG_FILE} says {rank}: they are of different runs.")
    alpha = _own(record, "alpha_pattern", layer, record["lora_alpha"])
    scaling = alpha / (math.sqrt(rank) if record.get("use_rslora") else rank)
    return LowRank(up, down, scaling, magnitude[0].flatten() if magnitude else None)


def _own(record: Mapping[str, Any], patterns: str, layer: str, default: int | float) -> Any:
    """What peft's pattern says of a layer, by its last parts or its whole name."""
    name = layer.removeprefix(PREFIX)
    found = [value for key, value in (record.get(patterns) or {}).items() if name == key or name.endswith(f".{key}")]
    return found[0] if found else default
