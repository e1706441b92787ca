"""A safetensors file written tensor by tensor: no more than one of them need be in memory.

The writers of safetensors and huggingface_hub take all tensors of a file, or of a model, at once.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from vla_tune.schema import appearing

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""The format's names of dtypes -> torch's."""


class Place(NamedTuple):
    """What the file's header says of a tensor."""

    dtype: str
    """As the format writes it: U8, BF16, F32, ..."""
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Place":
        """What the header says of `tensor`, which may be on the meta device."""
        return cls(next((key for key, dtype in _DTYPES.items() if dtype == tensor.dtype), "?"), tuple(tensor.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


def write_tensor_file(
    path: Path, places: Mapping[str, Place], tensors: Iterable[tuple[str, Tensor]], *, metadata: Mapping[str, str]
) -> None:
    """Write `tensors` as they come, in the order of `places`; the file appears whole or not at all.

    Raises:
        ValueError: a tensor comes out of order, or is not as its place says.
    """
    with appearing(path) as partial, partial.open("wb") as file:
        _write_header(file, places, metadata)
        waiting = iter(places.items())
        for name, tensor in tensors:
            _check(name, tensor, next(waiting, None))
            file.write(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
        if rest := [name for name, _ in waiting]:
            raise ValueError(f"{path}: {len(rest)} tensors did not come, first {rest[0]}.")
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: BinaryIO, places: Mapping[str, Place], metadata: Mapping[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, place in places.items():
        header[name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": (end, end + place.nbytes)}
        end += place.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the first tensor is aligned
    file.write(len(text).to_bytes(8, "little") + text)


def _check(name: str, tensor: Tensor, expected: tuple[str, Place] | None) -> None:
    given = (name, Place.of(tensor))
    if given != expected:
        raise ValueError(f"the tensor {given} came where {expected} was to be written.")
