"""Names and sizes that no linter knows."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = [path.relative_to(ROOT) for room in ("vla_tune", "envs", "scripts") for path in sorted((ROOT / room).rglob("*.py"))]
CONF = [path.relative_to(ROOT) for path in sorted((ROOT / "conf").rglob("*.yaml")) if "local" not in path.parts]
NO_COMMAND = ("hydra", "embodiment")
"""Rooms of `conf` that no command names."""
LONGEST = {"modules": 350, "scripts": 40}


@pytest.mark.parametrize("room", ["scripts", "envs"])
def test_no_file_hides_a_module_of_others(room: str):
    """`python scripts/x.py` puts scripts/ first on the import path: an `inspect.py` there would break torch.

    A folder of `envs` may have the name of the simulator that it wraps: nothing puts `envs` itself on the path.
    """
    taken = sys.stdlib_module_names | set(packages_distributions())
    own = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or (room == "scripts" and path.is_dir())}
    assert own - {"__init__", "__pycache__"}
    assert not own & (taken - {"__pycache__"})
    assert {"inspect", "torch", "yaml"} <= taken


def test_a_file_is_named_by_its_purpose():
    vague = {"util", "utils", "helper", "helpers", "common", "manager", "misc"}
    words = {path: {word for part in path.with_suffix("").parts for word in part.lower().split("_")} for path in [*PYTHON, *CONF]}
    assert [path for path in words if words[path] & vague] == []


def test_modules_are_short():
    """Functions are ruff's (PLR0915)."""
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in PYTHON}
    assert {
        path: count for path, count in lines.items() if count > LONGEST["scripts" if path.parts[0] == "scripts" else "modules"]
    } == {}


def test_a_script_says_its_command():
    silent = [path for path in PYTHON if path.parts[0] == "scripts" and f"python {path}" not in (docstring_of(ROOT / path) or "")]
    assert silent == []


def docstring_of(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))


def test_an_option_says_its_command():
    assert len(CONF) > 150
    assert {path: line for path in CONF if not said(path, line := first_line(path))} == {}


def first_line(path: Path) -> str:
    return next(line for line in (ROOT / path).read_text().splitlines() if not line.startswith("# @package"))


def said(path: Path, line: str) -> bool:
    """Whether the first line of an option names a command, and the option that it is."""
    group, scripts = path.parts[1], [word for word in line.split() if word.startswith("scripts/")]
    if group in NO_COMMAND:
        return line.startswith("# ")
    named = bool(re.search(rf"\b{group}(@\w+)?={path.stem}\b", line)) or "(which chooses this)" in line
    return (
        line.startswith("# python scripts/") and all((ROOT / one).is_file() for one in scripts) and (len(path.parts) != 3 or named)
    )
