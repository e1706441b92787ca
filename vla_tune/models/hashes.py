"""The content hash of a checkpoint, remembered: hashing 15 GB takes longer than loading them."""

import hashlib
import json
import os
from pathlib import Path

from vla_tune.models.files import content_hash, weight_files
from vla_tune.models.nf4 import NF4


def cache_folder(name: str | None) -> Path | None:
    """Where a checkpoint keeps copies and hashes; `~` is the user's home."""
    return Path(name).expanduser() if name is not None else None


def remembered_hash(folder: Path, cache: Path | None) -> str:
    """`content_hash(folder)`, computed again only if a file of the weights has another size, time or place than before.

    Args:
        folder: A checkpoint.
        cache: Where hashes are kept; without it, the hash is computed.
    """
    if cache is None:
        return content_hash(folder)
    note = cache / "hashes" / f"{_identity(folder)}.json"
    if note.is_file():
        return str(json.loads(note.read_text())["sha256"])
    computed = content_hash(folder)
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f".{note.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps({"folder": str(folder.resolve()), "sha256": computed}) + "\n")
    temporary.rename(note)
    return computed


def quantized_copy(folder: Path, nf4: NF4, cache: Path | None) -> Path | None:
    """Where the 4-bit copy of these weights lies or will lie in `cache`; named by all that decides its bytes."""
    if cache is None:
        return None
    content = json.dumps([remembered_hash(folder, cache), list(nf4.targets)])
    return cache / "nf4" / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"


def _identity(folder: Path) -> str:
    """Which files they are and when they were written, without reading them."""
    files = [path.resolve() for path in weight_files(folder)]
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()
