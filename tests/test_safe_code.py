"""Nothing that is read can run code: what ruff's rules (`pyproject.toml`) do not know, read off the syntax of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = [path for room in ("vla_tune", "envs", "scripts", "plugins", "bridges") for path in sorted((ROOT / room).rglob("*.py"))]
CALLS = {"compile", "__import__"}
FORBIDDEN = {"trust_remote_code", "allow_pickle"}


def problems(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{node.func.id}()"
        for keyword in node.keywords:
            refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in FORBIDDEN and not refused:
                yield keyword.arg


def test_no_file_runs_what_it_reads():
    found = {str(path.relative_to(ROOT)): list(problems(ast.parse(path.read_text()))) for path in PYTHON}
    assert len(found) > 300
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "code",
    [
        "compile(text, name, 'exec')",
        "__import__(name)",
        "model(path, trust_remote_code=True)",
        "model(path, trust_remote_code=given)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_it_finds_what_it_looks_for(code: str):
    assert list(problems(ast.parse(code)))
    assert not list(problems(ast.parse("model.eval(); torch.compile(model); a(trust_remote_code=False)")))
