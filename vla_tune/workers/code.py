"""What code an evaluation's result depends on, so that a result is not taken for that of other code."""

import ast
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import is_dataclass
from functools import cache, partial
from hashlib import sha256
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import gymnasium

import vla_tune
from vla_tune.workers.shelf import MakeEnv
from vla_tune.workers.start import Behind, behind, imported_here

Modules = Mapping[str, Sequence[str]]
"""Name -> file and package."""

ELSEWHERE = " there"
"""Behind the name of a package in an interpreter of its own."""
_OURS = (
    *("schema", "tokens", "data", "models", "heads", "adapters", "policy", "execution", "environment.py", "workers"),
    "translation",
    "evaluation",
)
"""Where, in this package, it is decided what a policy does in an environment."""
_ALWAYS = ("gymnasium", "numpy", "torch", "transformers")
_BESIDE = (".xml", ".mjcf", ".urdf", ".json", ".yaml", ".yml", ".toml")
"""Files of a package that describe a world."""
_ID = re.compile(r"\W([A-Za-z_][\w.]*):([\w./-]+-v\d+)")
"""Of an environment, with the module that registers it."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_IMPORT = re.compile(rb"^[ \t]*(?:import|from)[ \t](.+)$", re.MULTILINE)
_NAME = re.compile(rb"[A-Za-z_][\w.]*")


def code_of(make_env: MakeEnv, found: Behind | None = None) -> dict[str, Any]:
    """JSON data that differ where the code behind an environment differs.

    `sources`: a hash of the files in which the environment, its wrappers and its maker are written, of what these import, and of
    the descriptions that lie in their packages. `packages`: versions of what is installed, with what that requires and imports, and
    of meshes and textures; of an environment in an interpreter of its own, those there too. `ours`: a hash of this package.

    Args:
        make_env: Makes the environment.
        found: What is behind one that was made, here or in another process; None makes one to look at it.
    """
    if found is None:
        with closing(make_env()) as env:
            found = behind(env)
    own, installed = _reached({*found.layers, *_modules(make_env)}, {**found.modules, **imported_here()})
    packages = {name: version for name in sorted({*_ALWAYS, *installed, *_beneath(installed)}) if (version := _version(name))}
    sources, there = _hash(_files(own)), found.elsewhere
    if there is not None:
        sources = sha256(f"{sources} {there['sources']}".encode()).hexdigest()
        packages |= {f"{name}{ELSEWHERE}": version for name, version in there["packages"].items()}
    return {"sources": sources, "packages": packages, "ours": _ours()}


def code_behind(*made: Any) -> dict[str, Any]:
    """`sources` and `packages`, as of `code_of`, of makers, functions and objects, of which none is called.

    The class of an environment that is named by its id, as in `envs:vla_tune/Tabletop-v0`, is looked up.
    """
    own, installed = _reached({name for one in made for name in (*_modules(one), *_registered(repr(one)))}, imported_here())
    versions = {name: version for name in sorted(installed | _beneath(installed)) if (version := _version(name))}
    return {"sources": _hash(_files(own)), "packages": versions}


def _registered(words: str) -> Iterator[str]:
    """The modules that register environments which are named, and those of their classes, where they are installed."""
    for module, name in _ID.findall(words):
        with suppress(ImportError):
            import_module(module)
            yield module
            entry = spec.entry_point if (spec := gymnasium.registry.get(name)) else None
            if isinstance(entry, str):
                import_module(entry.partition(":")[0])
                yield entry.partition(":")[0]


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


def _reached(names: set[str], imported: Modules) -> tuple[dict[str, Sequence[str]], set[str]]:
    """Modules that are somebody's own files, with what they import; and the names of the packages that are installed."""
    own: dict[str, Sequence[str]] = {}
    installed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name not in imported and _DOTTED.fullmatch(name) and _is_package(top, imported):
            installed.add(top)  # something in a module, or a module that is imported later on
        if name not in imported or name in own:
            continue
        file, package = imported[name]
        if not _is_installed(file, top):
            own[name] = imported[name]
            waiting += _named(Path(file), package)
            continue
        installed.add(top)
        if name in names:  # of an environment itself, such as gymnasium's own of MuJoCo, all that it draws and computes with
            tops = {word.partition(".")[0] for word in _named(Path(file), package)}
            installed |= {other for other in tops if _is_package(other, imported)}
    return own, installed


def _is_package(top: str, imported: Modules) -> bool:
    """Whether it is installed, imported or not."""
    file, _ = imported.get(top, ("", ""))
    return top != "vla_tune" and top in _distributions() and (not file or _is_installed(file, top))


def _is_installed(file: str, top: str) -> bool:
    site = any(Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
    return site or any(Path(file).is_relative_to(folder) for folder in _folders(top))


@cache
def _folders(top: str) -> list[Path]:
    """Where a package is installed, besides the interpreter's own folder: `pip install --target` chooses one."""
    found = [metadata.distribution(name) for name in _distributions().get(top, [])]
    return [Path(str(one.locate_file(""))) for one in found if one.read_text("RECORD") is not None]


def _named(file: Path, package: str) -> Iterator[str]:
    """Dotted names of all that a module's file imports, at the top and inside functions, and other words that may be such names."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):  # such as import_module("robosuite.utils")
            words = [one.value for one in node.args if isinstance(one, ast.Constant)]
            yield from (word for word in words if isinstance(word, str))


def _files(modules: Modules) -> dict[str, Path]:
    """Name -> file: the modules, and the descriptions in the folders of their packages."""
    found = {name: Path(file) for name, (file, _) in modules.items()}
    for name, (file, package) in modules.items():
        if package:
            folder = Path(file).parent
            found |= {f"{name}/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.suffix in _BESIDE}
    return found


def _beneath(installed: set[str]) -> set[str]:
    """What packages stand on, by the names under which it is installed: what they require and use, what that does, and so on."""
    waiting = [owner for name in installed - {*_ALWAYS} for owner in _distributions().get(name, [])]
    own, found = {_usual(owner) for owner in waiting}, set[str]()
    while waiting:
        new = _used(waiting.pop()) - found - {*_ALWAYS}
        found |= new
        waiting += new
    return {name for name in found if _usual(name) not in own}


@cache
def _used(owner: str) -> frozenset[str]:
    """What of its requirements an installed distribution's files import; and those that bring assets.

    It is read in the files, for what is imported at the moment differs from task to task.
    """
    lines = {line: found.group() for line in _required(owner) if (found := re.match(r"[\w.-]+", line))}
    names = {_usual(name) for line, name in lines.items() if "extra ==" not in line}
    tops = {top.encode(): _usual(other) for top, others in _distributions().items() for other in others if _usual(other) in names}
    used, wanted = set[str](), {*tops.values()}
    for path in _sources(owner) if wanted else ():
        words = {word.partition(b".")[0] for line in _IMPORT.findall(path.read_bytes()) for word in _NAME.findall(line)}
        used |= {tops[word] for word in words & tops.keys()}
        if used == wanted:
            break
    return frozenset(used | {name for name in lines.values() if "assets" in name})


def _required(distribution: str) -> list[str]:
    with suppress(metadata.PackageNotFoundError):
        return metadata.requires(distribution) or []
    return []


def _sources(distribution: str) -> Iterator[Path]:
    with suppress(metadata.PackageNotFoundError):
        yield from (Path(str(file.locate())) for file in metadata.files(distribution) or [] if file.suffix == ".py")


def _usual(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


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
