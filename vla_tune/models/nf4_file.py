"""4-bit weights in a safetensors file: written layer by layer, and mapped."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vla_tune.models.nf4_blocks import BLOCK, OUTER_BLOCK, Blocks
from vla_tune.models.tensor_file import Place, write_tensor_file

_FORMAT = {"format": "vla-tune NF4, double quantisation", "version": "1"}
_PARTS = tuple(field.name for field in fields(Blocks))


def write_blocks(path: Path, shapes: Mapping[str, torch.Size], made: Iterable[tuple[str, Blocks]]) -> None:
    """Write `made`, whose layers have `shapes`; a layer is written before the next is asked for."""
    places = {f"{name}.{part}": place for name, shape in shapes.items() for part, place in _places(shape).items()}
    tensors = ((f"{name}.{part}", getattr(blocks, part)) for name, blocks in made for part in _PARTS)
    write_tensor_file(path, places, tensors, metadata=_FORMAT)


def map_blocks(path: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Blocks]]:
    """The 4-bit weights of the layers with `shapes`, mapped to `path`.

    Raises:
        ValueError: the file is damaged, or does not hold exactly these layers.
    """
    remedy = f"remove {path}: it will be made again"
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}.") from None
    places = {f"{name}.{part}": place for name, shape in shapes.items() for part, place in _places(shape).items()}
    names = list(handle.keys())
    slices = {name: handle.get_slice(name) for name in names}
    held = {name: Place(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    if held != places or handle.metadata() != _FORMAT:
        raise ValueError(f"{path} holds other layers than the model has, or was made by another version: {remedy}.")
    for name in shapes:
        yield name, Blocks(*(handle.get_tensor(f"{name}.{part}") for part in _PARTS))


def _places(shape: torch.Size) -> dict[str, Place]:
    blocks = shape.numel() // BLOCK
    sizes = (("U8", (shape.numel() // 2, 1)), ("U8", (blocks,)), ("F32", (-(-blocks // OUTER_BLOCK),)), ("F32", ()))
    return dict(zip(_PARTS, (Place(*size) for size in sizes), strict=True))
