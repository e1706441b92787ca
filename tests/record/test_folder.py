import json
import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from vla_tune.record import folder as module
from vla_tune.record.folder import RECIPE_FILE, Code

CODE = Code(sources={"expert": "e1", "environment": "w1"}, packages={"simulator": "1.4", "numpy": "2"})
written_once = partial(module.written_once, code=CODE)


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


def test_other_code_is_told_loudly_and_by_name(tmp_path, caplog):
    folder = tmp_path / "lift"
    written_once(folder, {}, writes("then"))
    caplog.set_level(logging.WARNING)
    written_once(folder, {}, writes("never asked for"))
    assert caplog.text == ""
    now = replace(CODE, sources={"expert": "e2", "environment": "w1"}, packages={"simulator": "1.5", "numpy": "2", "solver": "1"})
    module.written_once(folder, {}, writes("never asked for"), now)
    said = "the files of the expert changed, simulator was 1.4 and is 1.5, solver was not there and is 1"
    assert f"{folder} is reused, but was recorded by other code: {said}. " in caplog.text
    assert "to record anew, delete it or choose another folder" in caplog.text


def test_a_folder_that_notes_no_code_stays_usable(tmp_path, caplog):
    """As it was before code was noted, with the versions of four packages."""
    folder = tmp_path / "lift"
    written_once(folder, {}, writes("then"))
    (folder / RECIPE_FILE).write_text(json.dumps({"recipe": {}, "versions": {"numpy": "2"}}))
    caplog.set_level(logging.INFO)
    written_once(folder, {}, writes("never asked for"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "was recorded when code was not noted" in caplog.text


@pytest.mark.parametrize(
    "said", ["[]", '{"recipe": {}}', '{"recipe": {}, "versions": {}, "code": 1}', '{"recipe": {}, "versions": 3}']
)
def test_a_damaged_record_is_named(tmp_path, said):
    folder = tmp_path / "lift"
    written_once(folder, {}, writes("then"))
    (folder / RECIPE_FILE).write_text(said)
    with pytest.raises(ValueError, match="is damaged: delete"):
        written_once(folder, {}, writes("never asked for"))
