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
