"""A recorded dataset's folder: whole or absent, and made by one recipe."""

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vla_tune.schema import embodiment_of_today
from vla_tune.workers.code import code_behind

_log = logging.getLogger(__name__)
RECIPE_FILE = "recipe.json"
_SUFFIX = ".partial"
_PACKAGES = ("vla-tune", "lerobot", "mujoco", "numpy")
_ALMOST_FULL = 1_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Code:
    """What code makes episodes."""

    sources: Mapping[str, str]
    """Hashes of the files of each part, which has a name."""
    packages: Mapping[str, str]
    """Versions of what is installed."""

    @classmethod
    def behind(cls, **parts: Any) -> "Code":
        """That of objects and functions, by the names of the parts."""
        found = {name: code_behind(part) for name, part in parts.items()}
        packages = {name: version(name) for name in _PACKAGES}
        for code in found.values():
            packages |= code["packages"]
        return cls(sources={name: code["sources"] for name, code in found.items()}, packages=packages)


def written_once(folder: Path, recipe: Mapping[str, Any], write: Callable[[Path], None], code: Code) -> Path:
    """The folder that `write` makes, made only once.

    It is written beside its place and renamed when it is whole, so an interrupted recording leaves nothing under the name; what
    killed ones left beside it is removed by the next.

    Args:
        folder: Where the dataset will be.
        recipe: JSON data that determines the content; kept in `recipe.json`, with `code`.
        write: Fills the given folder, which does not exist yet.
        code: What makes it. Where it has changed since the folder was recorded, that is told, and the folder is reused.

    Returns:
        `folder`.

    Raises:
        ValueError: the folder holds something else, or a dataset of another recipe; the differing keys are named.
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    if is_recorded(folder, recipe, code):
        return folder
    recipe = _as_read(recipe)
    shelter, lock = _shelter(folder)
    try:
        partial = shelter / folder.name
        write(partial)
        record = {"recipe": recipe, "versions": dict(code.packages), "code": dict(code.sources)}
        (partial / RECIPE_FILE).write_text(json.dumps(record, indent=1) + "\n")
        _place(partial, folder, recipe, code)
    except Exception as error:
        if _disk_is_full(error, folder.parent):
            text = f"the disk of {folder.parent} is full: free some space or record elsewhere; nothing was kept"
            raise OSError(errno.ENOSPC, text) from None
        raise
    finally:
        shutil.rmtree(shelter, ignore_errors=True)
        os.close(lock)
    return folder


def is_recorded(folder: Path, recipe: Mapping[str, Any], code: Code) -> bool:
    """Whether the folder is there, made by this recipe; that it was made by other code is told.

    Raises:
        ValueError: it holds something else, or a dataset of another recipe; the differing keys are named.
    """
    if not folder.exists():
        return False
    _check_same(folder, _as_read(recipe), code)
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


def _place(partial: Path, folder: Path, recipe: Mapping[str, Any], code: Code) -> None:
    """Rename, unless another process of the same sweep recorded it meanwhile: then its folder is the one."""
    try:
        os.rename(partial, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _check_same(folder, recipe, code)


def was_recorded_by(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether the folder is there and notes just this recipe.

    Raises:
        ValueError: it holds something else.
    """
    return folder.exists() and _record_of(folder)["recipe"] == _as_read(recipe)


def _check_same(folder: Path, recipe: Mapping[str, Any], code: Code) -> None:
    record = _record_of(folder)
    known = record["recipe"]
    if changed := sorted(key for key in known.keys() | recipe.keys() if known.get(key) != recipe.get(key)):
        pairs = ", ".join(f"{key}: {known.get(key)!r} there, {recipe.get(key)!r} asked for" for key in changed)
        raise ValueError(f"{folder} was recorded by another recipe ({pairs}): delete it or choose another folder.")
    if others := list(_changed(record, code)):
        _log.warning(
            "%s is reused, but was recorded by other code: %s. Its episodes are those of then; to record anew, delete it or choose "
            "another folder.",
            folder,
            ", ".join(others),
        )
    if record["code"] is None:
        _log.info("%s was recorded when code was not noted: whether expert and environment are those of then is not known.", folder)
    _log.info("%s is reused: it was recorded by the same recipe.", folder)


def _changed(record: Mapping[str, Any], code: Code) -> Iterator[str]:
    for name, source in (record["code"] or {}).items():
        if source != code.sources.get(name):
            yield f"the files of the {name} changed"
    names = record["versions"].keys() | (code.packages.keys() if record["code"] is not None else ())
    for name in sorted(names):
        then, now = record["versions"].get(name, "not there"), code.packages.get(name, "not there")
        if then != now:
            yield f"{name} was {then} and is {now}"


def _record_of(folder: Path) -> dict[str, Any]:
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise ValueError(f"{folder} exists and was not recorded here ({RECIPE_FILE} is missing): choose another folder.")
    try:
        record = json.loads(path.read_text())
        record["versions"], record["code"] = dict(record["versions"]), dict(record["code"]) if "code" in record else None
        if "embodiment" in (known := record["recipe"]):
            known["embodiment"] = embodiment_of_today(known["embodiment"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged: delete {folder} or choose another folder.") from None
    return record


def _disk_is_full(error: Exception, place: Path) -> bool:
    """Also when a writer below hid the cause: LeRobot only logs a picture that it could not write."""
    return getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(place).free < _ALMOST_FULL
