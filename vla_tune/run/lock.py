"""One process at a time in a run's folder."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a shared file system says that does not know `flock`."""


class FolderInUseError(OSError):
    """Another process works in the folder; the message names it."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if missing, until the end; the lock file, which names host and process, goes with it.

    The kernel lets go when a process ends, however it ends. Where the file system has no such locks, the file alone speaks: one
    whose process is gone is taken over on the same machine, and left to the user on another. A folder that cannot be written
    needs no lock: a finished run on a read-only disk can still be reported.

    Raises:
        FolderInUseError: another process is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    if not os.access(folder, os.W_OK):
        yield
        return
    descriptor = _taken(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: what comes next makes its own
        os.close(descriptor)


def _taken(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, path)
            if _is_still(descriptor, path):
                return descriptor
            os.close(descriptor)  # its owner removed it in between
        except BaseException:
            os.close(descriptor)
            raise


def _lock(descriptor: int, path: Path) -> None:
    owner = _owner(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path, owner, "wait until it ends, stop it, or choose another folder") from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        if owner is not None and not _gone(*owner):
            raise _in_use(path, owner, f"if it is gone, remove {path}") from None


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> tuple[str, int] | None:
    """Host and process that a lock file names; nothing, while it is still empty."""
    text = os.pread(descriptor, 1000, 0)
    try:
        record = json.loads(text)
        return str(record["host"]), int(record["pid"])
    except (ValueError, KeyError, TypeError):
        return None


def _gone(host: str, pid: int) -> bool:
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _in_use(path: Path, owner: tuple[str, int] | None, remedy: str) -> FolderInUseError:
    who = "another process" if owner is None else f"process {owner[1]} on {owner[0]}"
    return FolderInUseError(f"{path.parent} is in use by {who}: {remedy}.")
