"""Names and sizes."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = [path.relative_to(ROOT) for room in ("vla_tune", "envs", "scripts") for path in sorted((ROOT / room).rglob("*.py"))]
CONF = [path.relative_to(ROOT) for path in sorted((ROOT / "conf").rglob("*.yaml")) if "local" not in path.parts]
NO_COMMAND = ("hydra", "embodiment")
"""Rooms of `conf` that no command names."""
LONGEST = {"function": 50, "module": 350, "script": 40}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the end, without the docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    assert docstring.end_lineno is not None
    return total - (docstring.end_lineno - docstring.lineno + 1)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("room", ["scripts", "envs"])
def test_no_file_hides_a_module_of_others(room: str):
    """`python scripts/x.py` puts scripts/ first on the import path: an `inspect.py` there would break torch."""
    taken = sys.stdlib_module_names | set(packages_distributions())
    own = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert own - {"__init__", "__pycache__"}
    assert not own & (taken - {"__pycache__"})
    assert {"inspect", "torch", "yaml"} <= taken


@pytest.mark.parametrize("path", [*PYTHON, *CONF], ids=str)
def test_a_file_is_named_by_its_purpose(path: Path):
    words = {word for part in path.with_suffix("").parts for word in part.lower().split("_")}
    assert not words & {"util", "utils", "helper", "helpers", "common", "manager", "misc"}


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_functions_and_modules_are_short(path: Path):
    long = {node.name: lines for node in functions(path) if (lines := lines_of_code(node)) > LONGEST["function"]}
    assert not long
    kind = "script" if path.parts[0] == "scripts" else "module"
    assert len((ROOT / path).read_text().splitlines()) <= LONGEST[kind]


@pytest.mark.parametrize("path", [path for path in PYTHON if path.parts[0] == "scripts"], ids=str)
def test_a_script_says_its_command(path: Path):
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    assert f"python {path}" in docstring


@pytest.mark.parametrize("path", CONF, ids=str)
def test_an_option_says_its_command(path: Path):
    first = next(line for line in (ROOT / path).read_text().splitlines() if not line.startswith("# @package"))
    assert first.startswith("# ")
    if path.parts[1] not in NO_COMMAND:
        scripts = [word for word in first.split() if word.startswith("scripts/")]
        assert first.startswith("# python scripts/")
        assert all((ROOT / script).is_file() for script in scripts)
    if len(path.parts) == 3 and path.parts[1] not in NO_COMMAND:
        assert re.search(rf"\b{path.parts[1]}(@\w+)?={path.stem}\b", first) or "(which chooses this)" in first


def test_the_docstring_does_not_count():
    module = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert lines_of_code(next(node for node in module.body if isinstance(node, ast.FunctionDef))) == 2
