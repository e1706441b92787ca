"""A checkpoint's weights, written tensor by tensor into as many files as they need."""

import json
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from vla_tune.models.files import INDEX_FILE
from vla_tune.models.tensor_file import Place, write_tensor_file

SHARD_BYTES = 7_000_000_000
"""The published 7B checkpoints have three shards of at most this size."""


def write_weights(folder: Path, shapes: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, shard_bytes: int) -> None:
    """One file, or as many as are needed to keep each below `shard_bytes` (unless a single tensor is larger), and their index.

    Args:
        folder: Exists.
        shapes: What there will be, on the meta device.
        tensors: Asked for one after the other, and not kept.
        shard_bytes: The largest file.

    Raises:
        ValueError: a tensor is not as `shapes` say.
    """
    parts = split_torch_state_dict_into_shards(dict(shapes), max_shard_size=shard_bytes)
    for file, names in parts.filename_to_tensors.items():
        expected = {name: Place.of(shapes[name]) for name in names}
        write_tensor_file(folder / file, expected, ((name, tensors[name]) for name in names), metadata={"format": "pt"})
    if parts.is_sharded:
        index = {"metadata": parts.metadata, "weight_map": parts.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
