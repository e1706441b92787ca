"""Folders that hold nothing but files and folders: what is read, copied or written there lies there."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MOST_ENTRIES = 200_000
"""Films, checkpoints and episodes of a long run are some thousands."""
_OTHERS = ("wandb",)
"""A logger's own folder in a run, which is not read here and is full of links."""


def plain(folder: Path) -> Path:
    """`folder`, in which no link leads elsewhere, and no file waits for another process when it is opened.

    Two kinds of links may lead out: those of the hub's own cache, and one from weights to weights, whose content is compared.

    Raises:
        ValueError: something else lies there; it is named.
    """
    root = folder.resolve()
    for count, entry in enumerate(_entries(folder)):
        if count >= _MOST_ENTRIES:
            raise ValueError(f"{folder} holds more than {_MOST_ENTRIES} files: it is no folder of a run or of a policy.")
        if entry.is_symlink():
            _check_link(Path(entry.path), root)
        elif stat.S_IFMT(entry.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{entry.path} is neither a file nor a folder: remove it, or copy {folder} again.")
    return folder


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that lies in `folder` and in its folders; links are not followed."""
    waiting = [str(folder)] if folder.is_dir() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.name not in _OTHERS and entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _check_link(link: Path, root: Path) -> None:
    target = Path(os.path.realpath(link))
    of_the_hub = target.parent.name == "blobs" and target.parent.parent / "snapshots" in root.parents
    weights = {link.suffix, target.suffix} == {".safetensors"} and link.name != "probe.safetensors" and target.is_file()
    if not (target.is_relative_to(root) or of_the_hub or weights):
        raise ValueError(
            f"{link} is a link that leads out of {root}, so what is read or written there would lie elsewhere: put the file or "
            "folder itself in its place."
        )
