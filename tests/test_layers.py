"""Imports point one way: a module imports only from layers to its left, and a robot computer reads the contract without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    "schema < tokens < data < models < heads < adapters < policy < execution < environment | extents"
    " < training | evaluation | serving | control < record < check < export < plan < bench < run < scripts"
)
RANK = {name: rank for rank, names in enumerate(ORDER.split(" < ")) for name in names.split(" | ")}
MODULES = [path.relative_to(ROOT) for path in sorted(ROOT.glob("vla_tune/**/*.py")) if path != ROOT / "vla_tune/__init__.py"]
MODULES += [path.relative_to(ROOT) for path in sorted(ROOT.glob("scripts/*.py"))]
ENVIRONMENTS = [path.relative_to(ROOT) for path in sorted(ROOT.glob("envs/**/*.py"))]
DRAWS_ENVIRONMENTS = ("run", "scripts", "bench")
"""Layers that may import `envs`, beside `vla_tune/record/tabletop.py`."""


def layer(path: Path) -> str:
    """`schema` and `data` for everything in vla_tune/schema and vla_tune/data, `scripts` for scripts/*.py."""
    return path.parts[0] if path.parts[0] != "vla_tune" else path.parts[1].removesuffix(".py")


def imported(source: str) -> Iterator[str]:
    """Dotted names of all that is imported, at the top and inside functions; relative imports begin with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def complaint(path: Path, name: str) -> str | None:
    """Why the file may not import `name`, if it may not."""
    own, parts = layer(path), name.split(".")
    if name.startswith("."):
        return "a relative import"
    if parts[0] in ("hydra", "omegaconf") and own not in ("run", "scripts"):
        return "only vla_tune/run and scripts know Hydra"
    if parts[0] == "envs" and own not in DRAWS_ENVIRONMENTS and path != Path("vla_tune/record/tabletop.py"):
        return "only run, bench, scripts and record/tabletop.py know the environments"
    if parts[0] != "vla_tune" or len(parts) < 2:
        return None
    other = parts[1]
    if other not in RANK:
        return f"`{other}` is no layer of {ORDER}"
    beside = other != own and RANK[other] == RANK[own]
    return f"{own} must not import {other}" if beside or RANK[other] > RANK[own] else None


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_one_way(path: Path):
    assert layer(path) in RANK, f"{path} lies in no layer of {ORDER}"
    wrong = {name: reason for name in imported((ROOT / path).read_text()) if (reason := complaint(path, name))}
    assert not wrong


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=str)
def test_environments_know_the_schema_only(path: Path):
    names = set(imported((ROOT / path).read_text()))
    ours = {name for name in names if name.startswith("vla_tune")}
    assert all(name == "vla_tune.schema" or name.startswith("vla_tune.schema.") for name in ours)
    assert not {name for name in names if name.split(".")[0] in ("hydra", "omegaconf", "torch", "transformers")}


@pytest.mark.parametrize(
    ("path", "name", "wrong"),
    [
        ("vla_tune/data/mixture.py", "vla_tune.tokens.IGNORED", False),
        ("vla_tune/data/mixture.py", "vla_tune.data.frames.Frames", False),
        ("vla_tune/data/mixture.py", "vla_tune.models.base.VLA", True),
        ("vla_tune/training/loop.py", "vla_tune.evaluation.Cell", True),
        ("vla_tune/training/loop.py", "vla_tune.unheard", True),
        ("vla_tune/training/loop.py", ".optim", True),
        ("vla_tune/training/loop.py", "omegaconf.OmegaConf", True),
        ("vla_tune/run/objects.py", "omegaconf.OmegaConf", False),
        ("vla_tune/evaluation/rollout.py", "envs.wrappers", True),
        ("vla_tune/record/tabletop.py", "envs.scene", False),
        ("scripts/train.py", "vla_tune.run.fine_tune.fine_tune", False),
        ("vla_tune/run/merge.py", "scripts.train", False),
    ],
)
def test_the_rule_itself(path: str, name: str, wrong: bool):
    assert (complaint(Path(path), name) is not None) == wrong


def test_hidden_imports_are_seen():
    assert set(imported("def f():\n    from a.b import c\n    import d.e\nfrom . import g")) == {"a.b.c", "d.e", "..g"}


def test_a_robot_computer_reads_the_contract_without_torch():
    program = "import sys, vla_tune.schema; print([name for name in ('torch', 'transformers', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"
