"""Adapter files: safetensors that name their base, read strictly."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from vla_tune.models.finite import check_finite
from vla_tune.models.sealed import unbroken
from vla_tune.models.tensor_file import Place, write_tensor_file
from vla_tune.models.tensor_reader import copy_tensors, read_tensor_file

_ANOTHER_ADAPTER = "The adapter attached to the model is not the one that was saved: use the configuration of the training run"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, base: str, base_hash: str) -> None:
    """Write `tensors` to `path`, with the format and the content hash of the base that they belong to."""
    # Ordered: equal tensors make equal files. Large numbers first, so that each begins at a multiple of its size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    metadata = {"format": "pt", "base": base, "base_hash": base_hash, "names": _digest(tensors)}
    write_tensor_file(path, {name: Place.of(tensor) for name, tensor in ordered}, ordered, metadata=metadata)


def read_tensors(path: Path, expected: Mapping[str, Tensor], *, base: str, base_hash: str) -> None:
    """Copy the tensors of `path` into `expected`, all or none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it belongs to another base, it is damaged, or a tensor is missing, left over or of another shape or dtype.
    """
    metadata, tensors = open_tensors(path)
    _check_metadata(path, metadata, base=base, base_hash=base_hash)
    fit_tensors(path, tensors, expected)


def open_tensors_of(path: Path, *, base: str, base_hash: str) -> dict[str, Tensor]:
    """The tensors of a file that belongs to a base: all that were written, and no others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it belongs to another base, it is damaged, or a tensor was taken away or added since.
    """
    metadata, tensors = open_tensors(path)
    _check_metadata(path, metadata, base=base, base_hash=base_hash)
    if metadata.get("names") != _digest(tensors):
        raise ValueError(f"{path} does not hold the tensors that were saved: some are missing or left over. Copy it again.")
    return tensors


def open_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header and the tensors of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, was changed since it was saved, or holds NaN.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: name the folder that the training run saved.")
    unbroken(path.parent)
    metadata, tensors = read_tensor_file(path, remedy="copy it again")
    check_finite(tensors.items(), path)
    return metadata, tensors


def fit_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Copy `tensors`, which came from `path`, into `expected`, all or none.

    Raises:
        ValueError: a tensor is missing, left over or of another shape or dtype.
    """
    copy_tensors(tensors, expected, source=path, remedy=_ANOTHER_ADAPTER)


def _check_metadata(path: Path, metadata: Mapping[str, str], *, base: str, base_hash: str) -> None:
    if metadata.get("base") != base:
        raise ValueError(f"{path} was trained on base={metadata.get('base')}, the model is base={base}: load the base in that.")
    if metadata.get("base_hash") != base_hash:
        raise ValueError(
            f"{path} was trained on a base with hash {metadata.get('base_hash')}, this one has {base_hash}: "
            "an adapter changes the weights that it was trained on and no others. Use the base folder of its training run."
        )


def _digest(names: Iterable[str]) -> str:
    """So that a file can be checked without a model."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
