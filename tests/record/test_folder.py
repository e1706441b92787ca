import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vla_tune.record.folder import RECIPE_FILE, written_once


def writes(text: str, meanwhile=lambda: None):
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "data").write_text(text)
        meanwhile()

    return write


def test_runs_that_record_the_same_at_once_share_what_is_done_first(tmp_path):
    folder = tmp_path / "lift"
    other = lambda: written_once(folder, {"seed": 0}, writes("of the first"))  # noqa: E731
    assert written_once(folder, {"seed": 0}, writes("of the second", meanwhile=other)) == folder
    assert (folder / "data").read_text() == "of the first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lift"]
    assert (folder / RECIPE_FILE).is_file()


def test_another_recipe_that_was_done_first_is_refused(tmp_path):
    folder = tmp_path / "lift"
    other = lambda: written_once(folder, {"seed": 1}, writes("of the first"))  # noqa: E731
    with pytest.raises(ValueError, match="seed: 1 there, 0 asked for"):
        written_once(folder, {"seed": 0}, writes("of the second", meanwhile=other))
    assert [path.name for path in tmp_path.iterdir()] == ["lift"]


@contextmanager
def recording(folder: Path) -> Iterator[int]:
    """A process that is in the middle of a recording of `folder`; it is killed in the end."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child writes files, and nothing else
        child = os.fork()
    if not child:
        written_once(folder, {"seed": 0}, writes("half", meanwhile=lambda: (os.write(writer, b"!"), signal.pause())))
    os.read(reader, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_what_a_killed_recording_left_is_never_read_and_removed_by_the_next(tmp_path):
    folder = tmp_path / "lift [2]"
    with recording(folder):
        assert not folder.exists()
        assert written_once(folder, {"seed": 0}, writes("whole")) == folder
        assert len(list(tmp_path.iterdir())) == 2, "what a living process writes is left alone"
    assert len(list(tmp_path.iterdir())) == 2
    assert written_once(folder, {"seed": 0}, writes("never asked for")) == folder
    assert (folder / "data").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [folder]


def test_killed_before_anything_was_there(tmp_path):
    folder = tmp_path / "lift"
    with recording(folder):
        pass
    assert not folder.exists()
    written_once(folder, {"seed": 0}, writes("whole"))
    assert (folder / "data").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_disk_that_is_full_while_writing_leaves_nothing(tmp_path):
    def write(folder: Path) -> None:
        folder.mkdir()
        Path("/dev/full").write_text("no room for this")

    with pytest.raises(OSError, match=r"disk of .* is full: free some space"):
        written_once(tmp_path / "lift", {}, write)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line_and_stays_as_it_is():
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o555)
        user = os.geteuid()
        try:
            if not user:
                os.seteuid(65534)  # nothing is forbidden to root
            with pytest.raises(PermissionError, match="Permission denied"):
                written_once(Path(place) / "lift", {}, writes("nothing"))
        finally:
            os.seteuid(user)
        assert list(Path(place).iterdir()) == []
        os.chmod(place, 0o755)
