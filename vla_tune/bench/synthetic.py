"""Checkpoints of a real shape with random weights, written tensor by tensor."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vla_tune.models.files import CONFIG_FILE, INDEX_FILE, new_folder
from vla_tune.models.openvla.load import empty_model, load_config
from vla_tune.models.tensor_file import Place, write_tensor_file

SHARD_BYTES = 5_000_000_000


def random_checkpoint(folder: Path, *, architecture: Path, seed: int, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a bfloat16 checkpoint with the configuration in `architecture` into a new folder; no more than a tensor is in memory.

    Weights are normal with deviation 0.02, as Llama's are at the start. There is no tokenizer: it can be loaded, not spoken to.

    Raises:
        ValueError: the folder exists.
    """
    shapes = {name: tensor.shape for name, tensor in empty_model(load_config(architecture)).state_dict().items()}
    places = {name: Place("BF16", tuple(shape)) for name, shape in shapes.items()}
    shards = list(_shards(places, shard_bytes))
    with new_folder(folder) as temporary:
        (temporary / CONFIG_FILE).write_text((architecture / CONFIG_FILE).read_text())
        where: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            held = {name: places[name] for name in names}
            write_tensor_file(temporary / file, held, _tensors(held, seed + number), metadata={"format": "pt"})
            where |= dict.fromkeys(names, file)
        size = sum(place.nbytes for place in places.values())
        (temporary / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=1) + "\n")


def _shards(places: dict[str, Place], limit: int) -> Iterator[Sequence[str]]:
    names: list[str] = []
    size = 0
    for name, place in places.items():
        if names and size + place.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += place.nbytes
    yield names


def _tensors(places: dict[str, Place], seed: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, place in places.items():
        yield name, torch.empty(place.shape).normal_(std=0.02, generator=generator).bfloat16()
