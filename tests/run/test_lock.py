import errno
import fcntl
import json
import os
import socket
import warnings
from pathlib import Path

import pytest

from vla_tune.run.lock import LOCK_FILE, FolderInUseError, locked


def test_the_second_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    with locked(run):
        assert json.loads((run / LOCK_FILE).read_text()) == {"host": socket.gethostname(), "pid": os.getpid()}
        with (
            pytest.raises(FolderInUseError, match=rf"mine is in use by process {os.getpid()} on \S+: wait until") as caught,
            locked(run),
        ):
            pass
        assert "\n" not in str(caught.value)
        assert json.loads((run / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(run.iterdir()) == []
    with locked(run):
        pass


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    """Its file stays, its lock does not."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's threads: the child uses none of them
        child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os.write(writing, b".")
            os.kill(os.getpid(), 9)
    assert os.read(reading, 1) == b"."
    os.waitpid(child, 0)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == child
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_file_that_its_owner_removed_meanwhile_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    taken, real = [], fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            (tmp_path / LOCK_FILE).unlink()
        taken.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert len(taken) == 2
        assert (tmp_path / LOCK_FILE).is_file()


def without_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize(
    ("host", "pid", "free"),
    [(socket.gethostname(), 2**22 + 1, True), (socket.gethostname(), 1, False), ("another", 2**22 + 1, False)],
)
def test_where_the_file_system_has_no_locks_the_file_speaks(host: str, pid: int, free: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks)
    (tmp_path / LOCK_FILE).write_text(json.dumps({"host": host, "pid": pid}))  # pid: one more than Linux gives, and init
    if free:
        with locked(tmp_path), pytest.raises(FolderInUseError), locked(tmp_path):
            pass
        assert not (tmp_path / LOCK_FILE).exists()
        return
    with pytest.raises(FolderInUseError, match=rf"process {pid} on {host}: if it is gone, remove .*{LOCK_FILE}"), locked(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == pid


def test_a_damaged_file_is_nobodys(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks)
    (tmp_path / LOCK_FILE).write_text("not json")
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_another_error_of_the_disk_is_told(tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_needs_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []
