"""4-bit weights in a safetensors file: written layer by layer, and mapped."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import torch

from vla_tune.models.nf4_blocks import BLOCK, OUTER_BLOCK, Blocks
from vla_tune.models.notes import read_note
from vla_tune.models.sealed import file_hash
from vla_tune.models.tensor_file import Place, write_tensor_file
from vla_tune.models.tensor_reader import open_tensor_file
from vla_tune.schema import write_json

_FORMAT = {"format": "vla-tune NF4, double quantisation", "version": "1"}
_PARTS = tuple(field.name for field in fields(Blocks))


def write_blocks(path: Path, shapes: Mapping[str, torch.Size], made: Iterable[tuple[str, Blocks]]) -> None:
    """Write `made`, whose layers have `shapes`; a layer is written before the next is asked for."""
    places = {f"{name}.{part}": place for name, shape in shapes.items() for part, place in _places(shape).items()}
    tensors = ((f"{name}.{part}", getattr(blocks, part)) for name, blocks in made for part in _PARTS)
    write_tensor_file(path, places, tensors, metadata=_FORMAT)
    write_json(_note(path), {"sha256": file_hash(path)})


def is_written(path: Path) -> bool:
    """Whether there is a copy with the hash by which it is checked; one without it is made again."""
    return path.is_file() and "sha256" in read_note(_note(path))


def map_blocks(path: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Blocks]]:
    """The 4-bit weights of the layers with `shapes`, mapped to `path`.

    Raises:
        ValueError: the file is damaged, does not hold exactly these layers, or is not as it was written.
    """
    remedy = f"remove {path}: it will be made again"
    handle = open_tensor_file(path, remedy=remedy)
    places = {f"{name}.{part}": place for name, shape in shapes.items() for part, place in _places(shape).items()}
    names = list(handle.keys())
    slices = {name: handle.get_slice(name) for name in names}
    held = {name: Place(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    if held != places or handle.metadata() != _FORMAT:
        raise ValueError(f"{path} holds other layers than the model has, or was made by another version: {remedy}.")
    if read_note(_note(path)).get("sha256") != file_hash(path):
        raise ValueError(f"{path} is not as it was written, so the model would be another: {remedy}.")
    for name in shapes:
        yield name, Blocks(*(handle.get_tensor(f"{name}.{part}") for part in _PARTS))


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _places(shape: torch.Size) -> dict[str, Place]:
    blocks = shape.numel() // BLOCK
    sizes = (("U8", (shape.numel() // 2, 1)), ("U8", (blocks,)), ("F32", (-(-blocks // OUTER_BLOCK),)), ("F32", ()))
    return dict(zip(_PARTS, (Place(*size) for size in sizes), strict=True))
