"""SHA-256 of the files that decide what a model does: noted when we write a folder, compared when it is read."""

import hashlib
import json
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from vla_tune.models.files import read_record
from vla_tune.models.plain_folder import plain

SEAL_FILE = "sha256.json"
_DECIDE = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*_checkpoint.pt",
    "*config*.json",
    "*token*",
    "vocab*",
    "merges.txt",
    "*.jinja",
    "contract.json",
)
_BESIDE = ("probe.safetensors",)
"""Kept observations: added later, and held against the policy itself."""


def seal(folder: Path) -> None:
    """Note the hashes of the files in `folder` that decide what the model or the adapter in it does."""
    record = {name: file_hash(folder / name) for name in _deciding(folder)}
    (folder / SEAL_FILE).write_text(json.dumps(record, indent=1) + "\n")


def unbroken(folder: Path) -> Path:
    """`folder`, whose files are those that were written; one that others published has no seal, and is taken as it is.

    Raises:
        ValueError: a file was changed, added or taken away since, or a link leads out of the folder.
    """
    plain(folder)
    if not (folder / SEAL_FILE).is_file():
        return folder
    noted = read_record(folder / SEAL_FILE, "which files were written")
    found = {name: file_hash(folder / name) for name in _deciding(folder)}
    if noted != found:
        names = sorted(name for name in noted | found if noted.get(name) != found.get(name))
        raise ValueError(
            f"{folder}: {', '.join(names[:3])} changed since the folder was written ({SEAL_FILE} holds the hashes): it is not what "
            "was trained. Copy, merge or export it again."
        )
    return folder


def file_hash(path: Path) -> str:
    """SHA-256 of a file; in one process it is read again only if its size, time or place changed."""
    about = path.stat()
    return _file_hash(path.resolve(), (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino))


@lru_cache(maxsize=4096)
def _file_hash(path: Path, _: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _deciding(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [name for name in names if name not in _BESIDE and any(fnmatch(name, pattern) for pattern in _DECIDE)]
