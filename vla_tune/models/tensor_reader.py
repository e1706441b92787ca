"""The strict reader of safetensors: every tensor that is wanted, no other, and each of them as it is wanted."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class TensorFile(NamedTuple):
    """What a file holds."""

    metadata: dict[str, str]
    tensors: dict[str, Any]
    """Torch's are mapped to the file, numpy's are copies."""


def open_tensor_file(path: Path, *, remedy: str) -> safe_open:
    """The open file, of which only the header was read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the header is damaged, or the file is not as long as it says; `remedy` ends the message.
    """
    with _explained(path, remedy):
        return safe_open(path, framework="pt")


def read_tensor_file(path: Path, *, remedy: str, framework: Literal["pt", "np"] = "pt") -> TensorFile:
    """All tensors of a file, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds what the framework has no name for; `remedy` ends the message.
    """
    with _explained(path, remedy), safe_open(path, framework=framework) as file:
        return TensorFile(file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


@contextmanager
def _explained(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, TypeError, AttributeError) as error:
        size = f"{path.stat().st_size:,} bytes"
        raise ValueError(f"{path} is damaged or cut short ({error}; it has {size}): {remedy}.") from None


def check_tensor_names(found: Collection[str], wanted: Collection[str], *, source: Path | str, remedy: str) -> None:
    """Compare the names of tensors.

    Raises:
        ValueError: one is missing or left over; `source` begins the message and `remedy` ends it.
    """
    missing, left_over = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or left_over:
        raise ValueError(
            f"{source}: {len(missing)} tensors missing (first {missing[:3]}), {len(left_over)} left over (first {left_over[:3]}). "
            f"{remedy}."
        )


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: Path | str, remedy: str) -> None:
    """Compare names, dtypes and shapes; tensors may be on the meta device.

    Raises:
        ValueError: a tensor is missing, left over or of another dtype or shape.
    """
    check_tensor_names(found, wanted, source=source, remedy=remedy)
    for name, tensor in found.items():
        is_, has = ((one.dtype, tuple(one.shape)) for one in (tensor, wanted[name]))
        if is_ != has:
            raise ValueError(f"{source}: {name} is {is_[0]} {is_[1]}, the model has {has[0]} {has[1]}. {remedy}.")


def copy_tensors(found: Mapping[str, Tensor], into: Mapping[str, Tensor], *, source: Path | str, remedy: str) -> None:
    """Copy `found` into the tensors of `into`, all or none.

    Raises:
        ValueError: a tensor is missing, left over or of another dtype or shape.
    """
    check_tensors(found, into, source=source, remedy=remedy)
    with torch.no_grad():
        for name, tensor in found.items():
            into[name].copy_(tensor)
