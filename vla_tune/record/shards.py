"""Finished episodes of a recording that goes on: a file for each, whole or absent, beside the dataset's place."""

import fcntl
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vla_tune.data.starts import Start
from vla_tune.printing import say
from vla_tune.record.episode import Episode
from vla_tune.record.folder import held
from vla_tune.schema import Embodiment

_log = logging.getLogger(__name__)
_SUFFIX = ".episodes"
_NOTE = b"vla_tune"
_QUICK = 1
"""Of PNG: a third of the time of LeRobot's 6, for files as large."""
_DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, TypeError)


@dataclass(frozen=True, eq=False)
class Shard:
    """An episode as it is stored."""

    pictures: Mapping[str, list[bytes]]
    """PNG files of every frame by camera key."""
    columns: Mapping[str, np.ndarray]
    """State and action, float32 [N S] and [N A]."""
    tasks: list[str]
    """What was said in every frame."""
    start: Start
    failed: int
    """Attempts before it that were not kept."""


@dataclass(frozen=True)
class Shelf:
    """The folder with the finished episodes of one recipe; `shelf_beside` holds it."""

    folder: Path

    def place(self, task: str, episode: int) -> Path:
        """Where an episode is."""
        return self.folder / f"{quote(task, safe='')}-{episode:06d}.parquet"

    def put(self, task: str, episode: int, found: Episode, *, body: Embodiment, failed: int) -> None:
        """Store an episode; it is there when it is whole.

        Raises:
            OSError: the disk is full.
        """
        table, place = _table(found, body, failed), self.place(task, episode)
        partial = place.with_suffix(f".{os.getpid()}")
        try:
            pq.write_table(table, partial, compression="NONE", use_dictionary=False, write_page_checksum=True)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, task: str, episode: int, body: Embodiment) -> Shard:
        """Read an episode.

        Raises:
            ValueError: it is not there, or damaged.
        """
        place = self.place(task, episode)
        try:
            return _shard(pq.read_table(place, page_checksum_verification=True), body)
        except _DAMAGED as error:
            said = " ".join(str(error).split())[:120]
            raise ValueError(f"{place} is damaged ({said}): delete it and start again; it alone is recorded anew.") from None

    def has(self, task: str, episode: int, body: Embodiment) -> bool:
        """Whether a whole episode is there; a damaged one is removed, and told."""
        place = self.place(task, episode)
        if not place.is_file():
            return False
        try:
            self.get(task, episode, body)
        except ValueError:
            say(f"{place} is damaged, and is recorded again.")
            place.unlink()
            return False
        return True


def _table(found: Episode, body: Embodiment, failed: int) -> pa.Table:
    columns: dict[str, Any] = {
        camera.key: pa.array([_png(frame[camera.key]) for frame in found.frames], pa.binary()) for camera in body.cameras
    }
    for key in _numbers(body):
        columns[key] = pa.array([frame[key] for frame in found.frames], pa.list_(pa.float32()))
    columns["task"] = pa.array([frame["task"] for frame in found.frames])
    note = json.dumps({"start": asdict(found.start), "failed": failed})
    return pa.table(columns).replace_schema_metadata({_NOTE: note.encode()})


def _shard(table: pa.Table, body: Embodiment) -> Shard:
    note = json.loads(table.schema.metadata[_NOTE])
    return Shard(
        pictures={camera.key: table[camera.key].to_pylist() for camera in body.cameras},
        columns={key: np.array(table[key].to_pylist(), np.float32) for key in _numbers(body)},
        tasks=table["task"].to_pylist(),
        start=Start(**note["start"]),
        failed=int(note["failed"]),
    )


def _numbers(body: Embodiment) -> list[str]:
    return [*([body.state_key] if body.state else []), body.action_key]


def _png(picture: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG", compress_level=_QUICK)
    return encoded.getvalue()


@contextmanager
def shelf_beside(folder: Path, key: str) -> Iterator[Shelf]:
    """The shelf of a recipe beside a dataset's place, held until the block ends; another process that holds it is waited for.

    What lies on it stays if the block fails, for the next that begins the same recording. If the block succeeds, it is removed
    with those of other recipes for the same place, which nobody holds.

    Args:
        folder: The dataset's place.
        key: What tells the recipe from others, in hexadecimal digits.
    """
    shelf = folder.parent / f".{folder.name}-{key}{_SUFFIX}"
    lock = _waited_for(shelf)
    try:
        yield Shelf(shelf)
        shutil.rmtree(shelf, ignore_errors=True)
        _clear(folder)
    finally:
        if shelf.is_dir() and not any(shelf.iterdir()):
            shutil.rmtree(shelf, ignore_errors=True)
        os.close(lock)


def _waited_for(shelf: Path) -> int:
    """A lock on a folder that is there."""
    while True:
        shelf.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(shelf, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"Another process records into {shelf}: it is waited for.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if shelf.is_dir() and os.stat(shelf).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)  # whoever held it was done, and removed it


def _clear(folder: Path) -> None:
    own = re.compile(rf"\.{re.escape(folder.name)}-[0-9a-f]+{re.escape(_SUFFIX)}")  # and not those of `<folder>-other`
    for left in folder.parent.iterdir():
        if own.fullmatch(left.name) and (lock := held(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
            _log.info("%s, of another recipe, is removed.", left)
