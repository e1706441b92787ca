"""A recorded dataset's folder: whole or absent, and made by one recipe."""

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vla_tune.schema import embodiment_of_today

_log = logging.getLogger(__name__)
RECIPE_FILE = "recipe.json"
_SUFFIX = ".partial"
_PACKAGES = ("vla-tune", "lerobot", "mujoco", "numpy")
_ALMOST_FULL = 1_000_000  # bytes


def written_once(folder: Path, recipe: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """The folder that `write` makes, made only once.

    It is written beside its place and renamed when it is whole, so an interrupted recording leaves nothing under the name; what
    killed ones left beside it is removed by the next.

    Args:
        folder: Where the dataset will be.
        recipe: JSON data that determines the content; kept in `recipe.json` with the packages' versions.
        write: Fills the given folder, which does not exist yet.

    Returns:
        `folder`.

    Raises:
        ValueError: the folder holds something else, or a dataset of another recipe; the differing keys are named.
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    if is_recorded(folder, recipe):
        return folder
    recipe = _as_read(recipe)
    shelter, lock = _shelter(folder)
    try:
        partial = shelter / folder.name
        write(partial)
        record = {"recipe": recipe, "versions": {name: version(name) for name in _PACKAGES}}
        (partial / RECIPE_FILE).write_text(json.dumps(record, indent=1) + "\n")
        _place(partial, folder, recipe)
    except Exception as error:
        if _disk_is_full(error, folder.parent):
            text = f"the disk of {folder.parent} is full: free some space or record elsewhere; nothing was kept"
            raise OSError(errno.ENOSPC, text) from None
        raise
    finally:
        shutil.rmtree(shelter, ignore_errors=True)
        os.close(lock)
    return folder


def is_recorded(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether the folder is there, made by this recipe.

    Raises:
        ValueError: it holds something else, or a dataset of another recipe; the differing keys are named.
    """
    if not folder.exists():
        return False
    _check_same(folder, _as_read(recipe))
    return True


def _as_read(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tuples become lists, as they will be read."""
    return json.loads(json.dumps(recipe, default=str))


def _shelter(folder: Path) -> tuple[Path, int]:
    """A new folder beside `folder`, and what holds it: the system lets go of it when this process ends, however it does."""
    while True:
        shelter = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=_SUFFIX, dir=folder.parent))
        lock = held(shelter)
        if lock is not None and shelter.exists():  # no sweeper was quicker
            return shelter, lock
        if lock is not None:
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Remove what killed recordings of `folder` left behind; what a living one writes is held by it."""
    for left in folder.parent.iterdir():
        if left.name.startswith(f".{folder.name}-") and left.name.endswith(_SUFFIX) and (lock := held(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
            _log.info("%s, left behind by a recording that was killed, is removed.", left)


def held(shelter: Path) -> int | None:
    """A lock on a folder; None where another process has it, it is gone, or it is no folder."""
    try:
        descriptor = os.open(shelter, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _place(partial: Path, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Rename, unless another process of the same sweep recorded it meanwhile: then its folder is the one."""
    try:
        os.rename(partial, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _check_same(folder, recipe)


def _check_same(folder: Path, recipe: Mapping[str, Any]) -> None:
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise ValueError(f"{folder} exists and was not recorded here ({RECIPE_FILE} is missing): choose another folder.")
    try:
        record = json.loads(path.read_text())
        known, versions = record["recipe"], record["versions"]
        if "embodiment" in known:
            known["embodiment"] = embodiment_of_today(known["embodiment"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: delete {folder} or choose another folder.") from None
    if changed := sorted(key for key in known.keys() | recipe.keys() if known.get(key) != recipe.get(key)):
        pairs = ", ".join(f"{key}: {known.get(key)!r} there, {recipe.get(key)!r} asked for" for key in changed)
        raise ValueError(f"{folder} was recorded by another recipe ({pairs}): delete it or choose another folder.")
    if newer := [name for name in _PACKAGES if versions.get(name) != version(name)]:
        _log.warning("%s is reused; since it was recorded these packages changed: %s.", folder, ", ".join(newer))
    _log.info("%s is reused: it was recorded by the same recipe.", folder)


def _disk_is_full(error: Exception, place: Path) -> bool:
    """Also when a writer below hid the cause: LeRobot only logs a picture that it could not write."""
    return getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(place).free < _ALMOST_FULL
