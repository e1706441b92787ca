"""A configuration from elsewhere is read as values, within bounds."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vla_tune.run.plain_yaml import read_plain_yaml


def test_what_a_run_writes_is_read_back(tmp_path: Path):
    values = {"a": 1e-4, "b": "2026-11-28", "c": [1, None, True, "1e-4", "yes"], "d": {"e": -1.5e-07, "f": {}, "g": float("inf")}}
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    assert read_plain_yaml(path) == values
    path.write_text("rate: 1e-4\n")
    assert read_plain_yaml(path) == {"rate": 1e-4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "repeats a part by an alias"),
        ("a: !!python/object/apply:os.system [true]\n", "asks for the type"),
        ("a: !!str 1\n", "asks for the type"),
        ("a: ${oc.env:HOME}\n", "is an interpolation"),
        ("a: {b: [1, '\\${c}']}\n", "is an interpolation"),
        ("${a}: 1\n", "is an interpolation"),
        ("[" * 100_000, "more than 32 levels deep"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' comes twice"),
        ("? {a: b}\n: c\n", "unhashable type"),
        ("- a\n", "holds a list"),
        ("", "holds a NoneType"),
        ("a: [1\n", "while parsing a flow sequence"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("a: " + "x" * 300_000, "a configuration at most 262,144"),
        ("a: \x00\n", "not read"),
    ],
)
def test_what_is_no_plain_configuration_is_refused_in_one_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_plain_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match="'utf-8' codec"):
        read_plain_yaml(path)
