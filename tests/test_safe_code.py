"""Nothing that is read can run code: read off the syntax of every file, in all spellings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = [
    path.relative_to(ROOT)
    for room in ("vla_tune", "envs", "scripts", "plugins", "bridges")
    for path in sorted((ROOT / room).rglob("*.py"))
]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "msgpack_numpy", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
LOADERS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("np", "load"), ("numpy", "load")}


def problems(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield from (f"from {node.module} import {alias.name}" for alias in node.names if not alias.name.endswith("Error"))
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "yaml"):
            yield from (f"from {node.module} import {alias.name}" for alias in node.names if (node.module, alias.name) in LOADERS)
        elif isinstance(node, ast.Call):
            yield from called(node)


def called(node: ast.Call) -> Iterator[str]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in CALLS:
        yield f"{function.id}()"
    if (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and (function.value.id, function.attr) in LOADERS
    ):
        yield f"{function.value.id}.{function.attr}()"
    for keyword in node.keywords:
        allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg == "trust_remote_code" and not allowed:
            yield "trust_remote_code"
        if keyword.arg == "allow_pickle" and not allowed:
            yield "allow_pickle"


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_no_file_runs_what_it_reads(path: Path):
    assert list(problems(ast.parse((ROOT / path).read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from dill import loads",
        "import joblib.externals",
        "torch.load(path)",
        "from torch import load",
        "eval(text)",
        "exec(text)",
        "model(path, trust_remote_code=True)",
        "model(path, trust_remote_code=given)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
    ],
)
def test_it_finds_what_it_looks_for(code: str):
    assert list(problems(ast.parse(code)))
    assert not list(problems(ast.parse("model.eval(); torch.compile(model); a(trust_remote_code=False)")))
