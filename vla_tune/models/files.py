"""Checkpoint folders: safetensors that are read strictly, and folders that appear whole or not at all."""

import glob
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vla_tune.models.tensor_reader import open_tensor_file
from vla_tune.schema import read_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight in `folder`, in alphabetical order of the names, mapped to its file.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is cut short.
    """
    opened = places(folder)
    for name in sorted(opened):
        yield name, opened[name].get_tensor(name)


def places(folder: Path) -> dict[str, safe_open]:
    """The open file of each tensor, in one file or in the shards that the index names.

    Raises:
        ValueError: a file is damaged, or a tensor lies in two.
    """
    opened: dict[str, safe_open] = {}
    for path in weight_files(folder):
        handle = open_tensor_file(path, remedy="copy or download it again")
        names = list(handle.keys())
        if twice := next((name for name in names if name in opened), None):
            raise ValueError(f"{folder}: {twice} lies in {path.name} and in another file: copy or download the checkpoint again.")
        opened |= dict.fromkeys(names, handle)
    return opened


def weight_files(folder: Path) -> list[Path]:
    """The one file of weights in `folder`, or the shards that the index names.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: the index is damaged, or names something else than files beside it.
    """
    names = _shards(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else [WEIGHTS_FILE]
    return [existing(folder / name) for name in names]


def counted_parameters(folder: Path) -> int:
    """Numbers that the weights in `folder` hold, as the headers of its files say; nothing else is read.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is cut short.
    """
    return sum(math.prod(handle.get_slice(name).get_shape()) for name, handle in places(folder).items())


def content_hash(folder: Path) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of the weights in `folder`, however they are split into files."""
    digest = hashlib.sha256()
    for name, tensor in read_tensors(folder):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def existing(path: Path) -> Path:
    """`path`, which must be a file.

    Raises:
        FileNotFoundError: it is not; the message lists what the folder holds.
    """
    if not path.is_file():
        held = ", ".join(sorted(child.name for child in path.parent.iterdir())) if path.parent.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{path} is missing ({held}): a checkpoint folder holds {CONFIG_FILE}, {WEIGHTS_FILE} (or shards and their "
            "index) and a tokenizer. Copy or download it again."
        )
    return path


def read_record(path: Path, meaning: str) -> dict[str, Any]:
    """The JSON object in `path`; `meaning` says in errors what it is for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it says {meaning}.")
    return read_object(path)


def _shards(index: Path) -> list[str]:
    shards = read_record(index, "where the weights lie").get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{index} has no weight_map: copy or download it again.")
    for name in shards.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise ValueError(
                f"{index} names {str(name)[:80]!r}, which is no file of weights beside it: download the checkpoint again."
            )
    return sorted(set(shards.values()))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder` when the block ends well, and vanishes when it does not.

    Raises:
        ValueError: `folder` exists already.
        OSError: its place cannot be written.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists and nothing is overwritten: remove it or choose another folder.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be written ({error.strerror}): choose a folder that can") from None
    _clear_abandoned(folder)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clear_abandoned(folder: Path) -> None:
    """Remove what processes that were killed on the way to `folder` left behind."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not Path(f"/proc/{process}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
