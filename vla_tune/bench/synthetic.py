"""Checkpoints and adapters of a real shape with random weights; checkpoints are written tensor by tensor."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vla_tune.adapters import Lora
from vla_tune.adapters.lora import NAME, factor, layers
from vla_tune.models.files import CONFIG_FILE, INDEX_FILE, new_folder
from vla_tune.models.openvla.load import empty_model, load_config
from vla_tune.models.tensor_file import Place, write_tensor_file

SHARD_BYTES = 5_000_000_000
BASE_HASH = "random weights"


def random_checkpoint(
    folder: Path, *, architecture: Path, seed: int, blocks: int | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a bfloat16 checkpoint with the configuration in `architecture` into a new folder; no more than a tensor is in memory.

    Weights are normal with deviation 0.02, as Llama's are at the start. There is no tokenizer: it can be loaded, not spoken to.

    Args:
        folder: Does not exist.
        architecture: Holds a configuration.
        seed: Of the weights.
        blocks: How many of the language model's blocks; None is all.
        shard_bytes: The largest file.

    Raises:
        ValueError: the folder exists.
    """
    record = json.loads((architecture / CONFIG_FILE).read_text())
    if blocks is not None:
        record["text_config"]["num_hidden_layers"] = blocks
    with new_folder(folder) as temporary:
        (temporary / CONFIG_FILE).write_text(json.dumps(record, indent=1) + "\n")
        shapes = {name: tensor.shape for name, tensor in empty_model(load_config(temporary)).state_dict().items()}
        places = {name: Place("BF16", tuple(shape)) for name, shape in shapes.items()}
        shards = list(_shards(places, shard_bytes))
        where: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            held = {name: places[name] for name in names}
            write_tensor_file(temporary / file, held, _tensors(held, seed + number), metadata={"format": "pt"})
            where |= dict.fromkeys(names, file)
        size = sum(place.nbytes for place in places.values())
        (temporary / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=1) + "\n")


def random_adapter(folder: Path, adapter: Lora, *, checkpoint: Path, seed: int) -> None:
    """Write what `adapter` might have learned over a bfloat16 `checkpoint`, or over the 4-bit one made of it.

    A and B are normal with deviation 0.02; the base is named by `BASE_HASH`, since hashing 15 GB takes longer than merging them.
    """
    model = empty_model(load_config(checkpoint)).bfloat16()
    replace(adapter, base="bf16").attach(model)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(model):
        for part in (layer.lora_A, layer.lora_B):
            nn.init.normal_(factor(part.to_empty(device="cpu"), NAME).weight, std=0.02, generator=generator)
    adapter.save(folder, model, base_hash=BASE_HASH)


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
