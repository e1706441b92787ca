"""Adapter files: safetensors that name their base, read strictly."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vla_tune.models.finite import check_finite
from vla_tune.models.sealed import unbroken
from vla_tune.models.tensor_file import Place, write_tensor_file


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
    copy_tensors(path, tensors, expected)


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
    try:
        with safe_open(path, framework="pt") as handle:
            metadata, tensors = handle.metadata() or {}, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): copy it again.") from None
    check_finite(tensors.items(), path)
    return metadata, tensors


def copy_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Copy `tensors`, which came from `path`, into `expected`, all or none.

    Raises:
        ValueError: a tensor is missing, left over or of another shape or dtype.
    """
    _check_tensors(path, tensors, expected)
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)


def _check_metadata(path: Path, metadata: Mapping[str, str], *, base: str, base_hash: str) -> None:
    if metadata.get("base") != base:
        raise ValueError(f"{path} was trained on base={metadata.get('base')}, the model is base={base}: load the base in that.")
    if metadata.get("base_hash") != base_hash:
        raise ValueError(
            f"{path} was trained on a base with hash {metadata.get('base_hash')}, this one has {base_hash}: "
            "an adapter changes the weights that it was trained on and no others. Use the base folder of its training run."
        )


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, left_over = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or left_over:
        raise ValueError(
            f"{path}: {len(missing)} tensors missing (first {missing[:2]}), {len(left_over)} left over (first {left_over[:2]}). "
            "The adapter attached to the model is not the one that was saved: use the configuration of the training run."
        )
    for name, tensor in tensors.items():
        found, wanted = (tensor.shape, tensor.dtype), (expected[name].shape, expected[name].dtype)
        if found != wanted:
            raise ValueError(f"{path}: {name} is {found[1]} {tuple(found[0])}, the model has {wanted[1]} {tuple(wanted[0])}.")


def _digest(names: Iterable[str]) -> str:
    """So that a file can be checked without a model."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
