"""JSON of strangers: what is wrong with it is one line, said soon."""

import json
from pathlib import Path

import pytest

from vla_tune.schema import Contract, read_json, read_object
from vla_tune.schema.contract import CONTRACT_FILE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested deeper than 64 levels"),
        (b'{"a":' * 100_000, "nested deeper than 64 levels"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": -Infinity}', "-Infinity is no finite number"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b"1" * 5000, "damaged"),
        (b'{"a": "\xff"}', "damaged"),
        (b"", "damaged"),
        (b"[1]  " * 1000, "has more than 4096 bytes"),
    ],
)
def test_it_is_named_with_its_file(tmp_path: Path, content: bytes, said: str):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what is said is looked at)
        read_json(tmp_path / "x.json", largest=4096 if b"  " in content else 10**6)
    assert said in str(caught.value)
    assert "x.json" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_right_is_read(tmp_path: Path):
    value = {"a": [1, 2.5, True, None, "é"], "deep": json.loads("[" * 50 + "]" * 50)}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list, not an object"):
        read_object(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match=r"y.json is missing"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"version": 3}', '{"version": [3]}', '{"version": 3.0}', "{}"])
def test_a_contract_that_is_none_is_one_line(tmp_path: Path, text: str):
    (tmp_path / CONTRACT_FILE).write_text(text)
    with pytest.raises(ValueError, match=CONTRACT_FILE) as caught:
        Contract.load(tmp_path)
    assert "\n" not in str(caught.value)
