import json

import pytest

from vla_tune.data.starts import STARTS_FILE, Start, read_starts, write_starts

GOOD = {"seed": 1, "options": {"task": "lift"}, "exact": True}
WRONG = [[GOOD | wrong] for wrong in ({"seed": -1}, {"seed": "1"}, {"options": [1]}, {"options": {"task": ["lift"]}}, {"exact": 1})]


def test_what_is_written_is_read(tmp_path):
    (tmp_path / "meta").mkdir()
    starts = [Start(7, {"task": "lift"}, exact=True), Start(8, {}, exact=False)]
    write_starts(tmp_path, starts)
    assert read_starts(tmp_path) == starts


def test_a_dataset_that_says_nothing_has_none(tmp_path):
    assert read_starts(tmp_path) == []


@pytest.mark.parametrize("text", ["{", '[{"seed": 1}]', "3", *map(json.dumps, WRONG)])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "meta").mkdir()
    (tmp_path / STARTS_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"starts.json is damaged .*: a list of seed, options and exact"):
        read_starts(tmp_path)
