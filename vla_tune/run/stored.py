"""What a run's folder describes, as objects: the folder may be a stranger's, so it is data.

Its configuration is read without resolving anything, and only options of ours are built from it, each named here by its exact name,
with plain values. What a user writes on the command line or in a folder of options is theirs, and goes through `objects.build`;
a run with classes of the user's own is opened where the user names them (`trusting`).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium

from vla_tune.adapters import Adapter
from vla_tune.data.sources import Data
from vla_tune.models.base import Checkpoint
from vla_tune.models.bc import BCCheckpoint
from vla_tune.models.foreign import plain_config
from vla_tune.models.hf import HFCheckpoint
from vla_tune.models.openvla import OpenVLACheckpoint, OpenVLAConfig
from vla_tune.models.precision import stored_format
from vla_tune.run.folder import CONFIG_FILE, asset_named, read_config, shipped
from vla_tune.run.origin import known_base
from vla_tune.run.sources import harmless
from vla_tune.schema import CONTRACT_FILE, Contract
from vla_tune.translation import translated

BASE_FOLDER = "base"
"""In an exported folder: the weights of the base, where an adapter cannot be merged."""
ENVIRONMENTS = ("envs:vla_tune/Tabletop-v0", "envs:vla_tune/MetaWorld-v0", "envs:vla_tune/Libero-v0")
"""That a run's folder may ask for."""
_TRANSLATED = "vla_tune.translation.translated"
_PARTS = tuple(
    f"vla_tune.translation.{name}"
    for name in (
        *("Action", "AnyTask", "Changed", "Clip", "Constant", "FlippedLeftRight", "FlippedUpDown", "FromAttribute", "FromInfo"),
        *("FromObservation", "Gripper", "GripperSwitch", "LeftOut", "Numbers", "Refuse", "Rendered"),
        *("RewardAtLeast", "RotationVector", "Sentences", "Settle", "Tasks", "Terminated", "Turned", "WhenInInfo"),
    )
)
"""Of a translated environment, what only reads what it shows and tells."""
_MAKERS = ("vla_tune.translation.FromLeRobot", "vla_tune.translation.Registered")
"""What makes it, by a name that is looked at first: nowhere else, since a part that another one reads may be called."""
_METHODS: Mapping[str, Mapping[str, str | None]] = {
    "vla_tune.translation.FromCall": {"path": "picture"},
    "vla_tune.translation.StoredStarts": {"set": "put", "observe": None},
}
"""Of an environment of ours, what calls these methods, and no other."""
_DRAWINGS = ("envs.libero.drawing.Default", "envs.libero.drawing.Fast")
CACHE = "~/.cache/vla_tune"
"""What a run's folder may name as its cache: 4-bit weights are read from there, and files written."""
_log = logging.getLogger(__name__)
_DAMAGED = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, RuntimeError, TypeError)


@dataclass(frozen=True)
class Options:
    """Names of what a part of a configuration may be, and of what may lie in it."""

    whole: tuple[str, ...]
    parts: tuple[str, ...]


OPTIONS: Mapping[str, Options] = {
    "model": Options(
        (
            "vla_tune.models.openvla.OpenVLACheckpoint",
            "vla_tune.models.openvla.DrawnOpenVLA",
            "vla_tune.models.hf.HFCheckpoint",
            "vla_tune.models.bc.BCCheckpoint",
        ),
        (
            "vla_tune.models.nf4.NF4",
            "vla_tune.models.hf.AppendedRows",
            "vla_tune.models.hf.ReservedRows",
            "vla_tune.models.openvla.additions.Film",
            "vla_tune.models.openvla.additions.Proprioception",
            "vla_tune.models.openvla.additions.Regression",
        ),
    ),
    "adapter": Options(
        (
            "vla_tune.adapters.Bottleneck",
            "vla_tune.adapters.Dora",
            "vla_tune.adapters.Full",
            "vla_tune.adapters.Lora",
            "vla_tune.adapters.PTuning",
            "vla_tune.adapters.Pissa",
            "vla_tune.adapters.PrefixTuning",
            "vla_tune.adapters.PublishedLora",
        ),
        (),
    ),
    "data": Options(
        ("vla_tune.data.sources.load_demonstrations",),
        (
            "vla_tune.data.chunks.ChunksByTimestamp",
            "vla_tune.data.sources.Hub",
            "vla_tune.data.sources.Local",
            "vla_tune.record.Noise",
            "vla_tune.record.NoiseByLevel",
            "vla_tune.record.Storage",
            "vla_tune.record.source.Demonstrated",
            "vla_tune.record.source.Played",
            "vla_tune.record.source.Recorded",
        ),
    ),
}

FAMILIES: Mapping[str, Callable[..., Any]] = {
    "bc": BCCheckpoint,
    "openvla": OpenVLACheckpoint,
    "transformers": HFCheckpoint.merged,
}
"""Who opens a folder of weights, by what its contract names; another family names its checkpoint's class, which must be trusted."""

_trusted: frozenset[str] = frozenset()


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """In this block, in every thread, a run's folder may also name these classes, and environments by their id.

    Args:
        names: What the user says aloud, each by its exact name: `my_lab.adapters.Mine`, `my_lab:Bench-v0`.
    """
    global _trusted  # not of one thread: a server adds adapters in others
    before, _trusted = _trusted, _trusted | {str(name) for name in names}
    try:
        yield
    finally:
        _trusted = before


def own_classes(cfg: Any) -> list[str]:
    """What the user's own configuration of a run, a plain mapping, names beside our options: it is read again when the run ends."""
    assert isinstance(cfg, dict)
    ours = {name for options in OPTIONS.values() for name in (*options.whole, *options.parts)}
    return sorted({named["_target_"] for part in OPTIONS for named in _naming(cfg.get(part))} - ours)


def _naming(node: Any) -> Iterator[Mapping[str, Any]]:
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        yield node
    for child in children:
        yield from _naming(child)


def checkpoint_of(run: Path, *, folder: Path | None = None) -> Checkpoint:
    """The base that a run was trained on: in `folder`, else in the run's own folder if it was exported with it, else where it was.

    Of a run that was copied here, it is the one that ships with the package, or where the user said that it lies. Its weights
    are compared with the adapter's hash when both meet.

    Raises:
        FileNotFoundError: there is no configuration, or no base.
        ValueError: it is damaged, or names something else than a checkpoint of ours.
    """
    own = run / BASE_FOLDER
    place = folder or (own if own.is_dir() else None) or _elsewhere(run)
    return _built(run, "model", _without_cache(run) | ({} if place is None else {"folder": str(place)}))


def checkpoint_in(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, by the family that its contract names, and in the format of its files.

    A published policy has no contract: there the configuration says the architecture.

    Raises:
        ValueError: it is of a family that is not ours and that the user did not name.
    """
    if (folder / CONTRACT_FILE).is_file():
        family = Contract.load(folder).model["family"]
    else:
        family = "openvla" if plain_config(folder).get("model_type") == OpenVLAConfig.model_type else "transformers"
    return _opener(family, folder)(str(folder), base=stored_format(folder))


def _opener(family: str, folder: Path) -> Callable[..., Any]:
    if family in FAMILIES:
        return FAMILIES[family]
    if family not in _trusted:
        raise ValueError(
            f"{folder} is a model of the family {family[:120]!r}, which is not opened unseen; of ours are {', '.join(FAMILIES)}. "
            f"If it is a class of your own, name it: trusted=[{family[:120]}]."
        )
    return _class(family)


def _class(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _without_cache(run: Path) -> dict[str, None]:
    """A cache elsewhere than the user's own is not used: who can write there could exchange the weights."""
    cache = _part(run / CONFIG_FILE, read_config(run), "model").get("cache")
    own = isinstance(cache, str) and ".." not in cache and Path(cache).expanduser().is_relative_to(Path(CACHE).expanduser())
    if cache is None or own:
        return {}
    _log.warning("%s: model.cache=%.80r is not used; only %s is, which may be a link.", run / CONFIG_FILE, cache, CACHE)
    return {"cache": None}


def adapter_of(run: Path) -> Adapter:
    """The way in which a run learned; raises as `checkpoint_of`."""
    return _built(run, "adapter", {})


def data_of(run: Path) -> Data:
    """What a run learned from; raises as `checkpoint_of`, or if it would be recorded anywhere but below the working folder."""
    path = run / CONFIG_FILE
    sources = _part(path, read_config(run), "data").get("sources")
    return _built(run, "data", {"sources": harmless(sources, path)} if isinstance(sources, list) else {})


def environment_of(run: Path) -> Callable[..., gymnasium.Env]:
    """What makes the environment in which a run was tried; raises as `checkpoint_of`."""
    path = run / CONFIG_FILE
    node = _part(path, _part(path, read_config(run), "env"), "make")
    if node.get("_target_") == _TRANSLATED:
        with loading(path):
            return _translated(path, node)
    options = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    if node.get("_target_") != "gymnasium.make" or not _may_be_made(options.get("id")):
        named = f"{node.get('_target_')!r} with id={options.get('id')!r}"
        raise ValueError(
            f"{path}: env.make is {named[:200]}; a run's folder may ask for gymnasium.make and {', '.join(ENVIRONMENTS)}. "
            "If it is an environment of your own, say so: env=<yours>, or trusted=[<its id>]; or leave the replay out: replayed=0."
        )
    _refuse_words(path, "env.make", options)
    return partial(gymnasium.make, **options)


def _translated(path: Path, node: Mapping[str, Any]) -> Callable[..., gymnasium.Env]:
    """Of parts that read; those that call a method or open a file are built where they are trusted by name."""
    environment = _part(path, node, "environment")
    named = environment.get("id", environment.get("type"))
    if not _may_be_made(named):
        raise ValueError(
            f"{path}: env.make translates {str(named)[:120]!r}; a run's folder may ask for {', '.join(ENVIRONMENTS)}. If it is an "
            "environment of your own, say so: env=<yours>, or trusted=[<its id or type>]; or leave the replay out: replayed=0."
        )
    given = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    _refuse_words(path, "env.make", given)
    parts = _PARTS if named not in ENVIRONMENTS else (*_PARTS, *_DRAWINGS, *_calling(given))
    maker = _object(environment, _MAKERS, parts, path, "env.make.environment")
    read = {key: _value(value, parts, path, f"env.make.{key}") for key, value in given.items() if key != "environment"}
    return partial(translated, environment=maker, **read)


def _may_be_made(named: Any) -> bool:
    """Whether an environment is ours, or one that the user named."""
    return isinstance(named, str) and named in {*ENVIRONMENTS, *_trusted}


def _calling(node: Any) -> Iterator[str]:
    """What calls methods of an environment of ours, where it calls those alone that are meant for it."""
    for name, methods in _METHODS.items():
        asked = [part for part in _naming(node) if part["_target_"] == name]
        if all(part.get(key) == method for part in asked for key, method in methods.items()):
            yield name


def _elsewhere(run: Path) -> Path | None:
    """Where the base lies, if not where the configuration says."""
    if (known := known_base(run)) is not None:
        return known
    named = str(_part(run / CONFIG_FILE, read_config(run), "model").get("folder"))
    if Path(named).is_dir() or not named.startswith(("/", ".", "~")):
        return None  # it is there, or is an id of the hub
    found = next((path for path in shipped() if path.name == asset_named(named)), None)
    if found is None:
        raise FileNotFoundError(
            f"the base of {run} is not at {named} on this machine: say where it lies with model.folder=...; its hash is compared."
        )
    return found


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """In this block, whatever a damaged folder makes fail is told in one line that names it.

    Raises:
        ValueError: something failed in another way than by a message of ours, or one of ours that does not say where.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError or str(folder) in str(error):
            raise
        raise ValueError(f"{folder}: {error}") from error
    except _DAMAGED as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{folder} cannot be loaded ({said}): its files are damaged; copy or export it again.") from error


def _built(run: Path, name: str, changes: Mapping[str, Any]) -> Any:
    path = run / CONFIG_FILE
    node, options = _part(path, read_config(run), name), OPTIONS[name]
    with loading(path):
        return _object({**node, **changes}, options.whole, options.parts, path, name)


def _part(path: Path, record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"{path} describes no {name}: take the file that the run wrote again.")
    return part


def _object(node: Mapping[str, Any], options: tuple[str, ...], parts: tuple[str, ...], path: Path, place: str) -> Any:
    """What `node` names, with its parts made first."""
    target = node.get("_target_")
    if target not in {*options, *_trusted}:
        raise ValueError(
            f"{path}: {place} is {str(target)[:120]!r}, which is not built from a run's folder; it may be {', '.join(options)}. "
            "If it is a class of your own, name it: trusted=[<module>.<class>]."
        )
    arguments = {key: _value(value, parts, path, f"{place}.{key}") for key, value in node.items() if key != "_target_"}
    _refuse_words(path, place, arguments)
    return _class(target)(**arguments)


def _value(value: Any, parts: tuple[str, ...], path: Path, place: str) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        return _object(value, parts, parts, path, place)
    if isinstance(value, dict):
        _refuse_words(path, place, value)
        return {key: _value(child, parts, path, f"{place}.{key}") for key, child in value.items()}
    if isinstance(value, list):
        return [_value(child, parts, path, f"{place}.{number}") for number, child in enumerate(value)]
    return value


def _refuse_words(path: Path, place: str, node: Mapping[Any, Any]) -> None:
    """Those by which a configuration tells Hydra what to do."""
    words = [key for key in node if not isinstance(key, str) or key.startswith("_")]
    if words:
        raise ValueError(
            f"{path}: {place} holds the key {words[0]!r}, which is no setting: take the file that the run wrote again."
        )
