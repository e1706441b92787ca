"""What code an evaluation's result depends on, so that a result is not taken for that of other code."""

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache, partial
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium

import vla_tune
from vla_tune.evaluation.environments import MakeEnv

_OURS = (
    *("schema", "tokens", "data", "models", "heads", "adapters", "policy", "execution", "environment.py", "workers"),
    "translation",
    "evaluation",
)
"""Where, in this package, it is decided what a policy does in an environment."""
_ALWAYS = ("gymnasium", "numpy", "torch", "transformers")
_BESIDE = (".xml", ".mjcf", ".urdf", ".json", ".yaml", ".yml", ".toml")
"""Files of a package that describe a world."""


def code_of(make_env: MakeEnv) -> dict[str, Any]:
    """JSON data that differ where the code behind an environment differs; one is made to look at it.

    `sources`: a hash of the files in which the environment, its wrappers and its maker are written, of what these import, and of
    the descriptions that lie in their packages. `packages`: versions of what is installed, meshes and textures included. `ours`: a
    hash of this package.
    """
    env = make_env()
    try:
        names = {type(layer).__module__ for layer in _layers(env)} | set(_modules(make_env))
    finally:
        env.close()
    own, installed = _reached(names)
    packages = {name: version for name in sorted({*_ALWAYS, *installed, *_assets(installed)}) if (version := _version(name))}
    return {"sources": _hash(_files(own)), "packages": packages, "ours": _ours()}


def code_behind(*made: Any) -> str:
    """A hash of the files in which makers, functions and objects are written, with what these import; packages are left out."""
    named = re.findall(r"\W([A-Za-z_][\w.]*):[\w./-]+-v\d+", repr(made))  # of environments that a module registers
    own, _ = _reached({name for one in made for name in _modules(one)} | set(named))
    return _hash(_files(own))


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """The wrappers, then what they wrap."""
    while True:
        yield env
        inner = getattr(env, "env", None)
        if not isinstance(inner, gymnasium.Env):
            return
        env = inner


def _modules(made: Any) -> Iterator[str]:
    """Of a maker, and of the objects and functions that it was given."""
    children = ()
    if isinstance(made, partial):
        yield from _modules(made.func)
        children = (*made.args, *made.keywords.values())
    elif hasattr(made, "__wrapped__"):
        children = (made.__wrapped__,)
    elif isinstance(made, Mapping):
        children = made.values()
    elif isinstance(made, list | tuple):
        children = made
    elif is_dataclass(made) and not isinstance(made, type):
        yield type(made).__module__
        children = vars(made).values()
    elif callable(made):
        yield getattr(made, "__module__", None) or type(made).__module__
    for child in children:
        yield from _modules(child)


def _reached(names: set[str]) -> tuple[dict[str, ModuleType], set[str]]:
    """Modules that are somebody's own files, with what they import; and the names of the packages that are installed."""
    own: dict[str, ModuleType] = {}
    installed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        module, top = sys.modules.get(name), name.partition(".")[0]
        if module is None or name in own or top in (*sys.stdlib_module_names, "vla_tune"):
            continue
        if _is_installed(module):
            installed.add(top)
        elif getattr(module, "__file__", None):
            own[name] = module
            waiting += _imported(module)
    return own, installed


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))


def _imported(module: ModuleType) -> Iterator[str]:
    """Dotted names of all that a module's file imports, at the top and inside functions."""
    package = module.__package__ or ""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):  # such as import_module("robosuite.utils")
            words = [one.value for one in node.args if isinstance(one, ast.Constant)]
            yield from (word for word in words if isinstance(word, str) and word in sys.modules)


def _files(modules: Mapping[str, ModuleType]) -> dict[str, Path]:
    """Name -> file: the modules, and the descriptions in the folders of their packages."""
    found = {name: Path(str(module.__file__)) for name, module in modules.items()}
    for name, module in modules.items():
        if module.__package__:
            folder = Path(str(module.__file__)).parent
            found |= {f"{name}/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.suffix in _BESIDE}
    return found


def _assets(installed: set[str]) -> set[str]:
    """Names of the packages that bring the meshes and textures of those that are installed: what they require as `...assets...`."""
    owners = {owner for name in installed for owner in _distributions().get(name, [])}
    required = [re.match(r"[\w.-]+", line) for owner in owners for line in metadata.requires(owner) or []]
    return {found.group() for found in required if found and "assets" in found.group()}


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    names = _distributions().get(package, [])
    return metadata.version(names[0]) if names else None


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Import name -> what was installed under which name; half a second of reading, so it is found out once."""
    return metadata.packages_distributions()


@cache
def _ours() -> str:
    root = Path(vla_tune.__file__).parent
    paths = [path for name in _OURS for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))]
    return _hash({path.relative_to(root).as_posix(): path for path in paths})


def _hash(files: Mapping[str, Path]) -> str:
    total = sha256()
    for name in sorted(files):
        total.update(name.encode() + b"\0" + sha256(files[name].read_bytes()).digest())
    return total.hexdigest()
