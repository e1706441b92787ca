"""The memory of this computer, or of the part of it that a container or a cluster's job may use."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

_ROOT = Path("/")
_NAMES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files of a control group of Linux, in its second and in its first version: what may be used, and what is."""
_FILES = (("inactive_file", "active_file"), ("total_inactive_file", "total_active_file"))
"""What a group holds of files that it read, in `memory.stat`: it is given up before memory runs short."""


class _Part(NamedTuple):
    """Of the memory, in bytes."""

    limit: int
    used: int


def computer_memory(root: Path = _ROOT) -> int:
    """All bytes of it; `root` is where Linux tells of itself."""
    return min(part.limit for part in _parts(root))


def spare_memory(root: Path = _ROOT) -> int:
    """The bytes that may be taken so that a quarter of the whole stays free; less than 0 where that is not so now.

    What is used only to remember files counts as free.
    """
    parts = _parts(root)
    return min(part.limit - part.used for part in parts) - min(part.limit for part in parts) // 4


def _parts(root: Path) -> list[_Part]:
    """The computer, and the groups that this process is in, if they are limited."""
    whole = psutil.virtual_memory()
    return [_Part(whole.total, whole.total - whole.available), *(part for group in _groups(root) for part in _limited(group))]


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own to the outermost that can be seen."""
    told = root / "proc/self/cgroup"
    for line in told.read_text().splitlines() if told.is_file() else ():
        _, kind, path = line.split(":", 2)
        if kind in ("", "memory"):
            top = root / "sys/fs/cgroup" / kind
            own = top / path.lstrip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(top))


def _limited(group: Path) -> Iterator[_Part]:
    for (limit, used), files in zip(_NAMES, _FILES, strict=True):
        said = (group / limit).read_text().strip() if (group / limit).is_file() else ""
        if said.isdecimal():
            counted = dict(line.split(maxsplit=1) for line in (group / "memory.stat").read_text().splitlines())
            yield _Part(int(said), int((group / used).read_text()) - sum(int(counted[name]) for name in files))
