"""Run folders: named by their choices, opened once, resumed only with the same configuration."""

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vla_tune.run.lock import FolderInUseError, locked
from vla_tune.run.plain_yaml import read_plain_yaml
from vla_tune.schema import CONTRACT_FILE
from vla_tune.training.loop import CHECKPOINTS

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "results.json"
METRICS_FILE = "metrics.jsonl"
ADAPTER_FOLDER = "adapter"
_MAY_CHANGE = ("logger", "device", "evaluation.films")
"""Keys that change nothing about the result."""
_LONGEST_NAME, _DIGEST = 80, 10


def folder_name(*parts: str) -> str:
    """Parts joined by `-`, written with letters, digits, `.`, `-` and `_` only, so that a shell needs no quotes.

    A name has at most 80 characters: of a longer one the beginning is kept, and a hash of all parts.
    """
    clean = (re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("_") for part in parts)
    name = "-".join(part for part in clean if part)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST_NAME - _DIGEST - 1].rstrip('-._')}-{digest}"


def asset(name: str) -> str:
    """The folder of a checkpoint that ships with the package."""
    return str(files("vla_tune") / "assets" / name)


def task_of(run: str) -> str:
    """The task that a training run was about; for a merged policy, that of the run around it."""
    for folder in (Path(run), Path(run).parent):
        if (folder / CONFIG_FILE).is_file():
            return str(load_config(folder).task)
    raise ValueError(f"{run} has no {CONFIG_FILE} that names a task: write task=<name>.")


def dimension_of(groups: Sequence[Mapping[str, Any]]) -> int:
    """Of the state or the action that an embodiment's `groups` make up."""
    return sum(group["dimension"] for group in groups)


def register_resolvers() -> None:
    """What the YAML files may call: `folder_name`, `asset`, `task_of`, `dimension_of`, `output`."""
    OmegaConf.register_new_resolver("output", lambda: str(output_folder()), replace=True)
    for resolver in (folder_name, asset, task_of, dimension_of):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


register_resolvers()


def output_folder() -> Path:
    """The folder of the job that Hydra is running."""
    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def command() -> str:
    """The command that goes on with this job, whole: its folder is named, wherever the configuration would put it.

    A job of a sweep goes on with the sweep: its finished jobs are only reported.
    """
    given = sys.argv[1:]
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        given = [word for word in given if not word.lstrip("+").startswith("hydra.run.dir=")]
        given.append(f"hydra.run.dir={quoted(str(output_folder()))}")
    return " ".join(["uv run python", shlex.join([os.path.relpath(sys.argv[0]), *given])])


def quoted(text: str) -> str:
    """A value as Hydra's command line reads it: in quotes of its own where a character would mean something."""
    return text if re.fullmatch(r"[A-Za-z0-9._/-]+", text) else QuotedString(text, Quote.single).with_quotes()


def open_run(cfg: DictConfig, folder: Path) -> None:
    """Make the run folder and write its configuration, or check that the one in it is the same.

    Raises:
        ValueError: the folder holds a run with another configuration; the differing keys are named.
    """
    path = folder / CONFIG_FILE
    text = OmegaConf.to_yaml(cfg, resolve=True)
    if path.is_file():
        _check_same(load_config(folder), OmegaConf.create(text), path)
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{CONFIG_FILE}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


@contextmanager
def opened_run(cfg: DictConfig, folder: Path) -> Iterator[None]:
    """As `open_run`, alone in the folder; if an error ends the run before anything was learned, what it wrote vanishes again.

    Raises:
        FolderInUseError: another process trains there.
    """
    try:
        with locked(folder):
            open_run(cfg, folder)
            with _undone_if_nothing_was_learned(folder):
                yield
    except FolderInUseError:
        raise
    except Exception:
        with suppress(OSError):  # what is not ours, and not empty, stays
            for empty in (folder / CHECKPOINTS, folder):
                if empty.exists():
                    empty.rmdir()
        raise


@contextmanager
def _undone_if_nothing_was_learned(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception:
        if not any((folder / CHECKPOINTS).glob("*")) and not (folder / ADAPTER_FOLDER).exists():
            for name in (CONFIG_FILE, CONTRACT_FILE, METRICS_FILE):
                (folder / name).unlink(missing_ok=True)
        raise


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, which may be a stranger's, as plain data.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or would have to be resolved.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no training run; name a folder that scripts/train.py made.")
    return read_plain_yaml(path)


def load_config(folder: Path) -> DictConfig:
    """The same, to be read by attributes; it holds no interpolation. What it describes is built by `run.stored`."""
    return OmegaConf.create(read_config(folder))


def _check_same(saved: Any, new: Any, path: Path) -> None:
    before, now = _flat(OmegaConf.to_container(saved)), _flat(OmegaConf.to_container(new))
    keys = [key for key in sorted(before.keys() | now.keys()) if not key.startswith(_MAY_CHANGE)]
    changed = [key for key in keys if before.get(key) != now.get(key)]
    if changed:
        pairs = ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in changed[:5])
        raise ValueError(
            f"{path} was written by another configuration ({pairs}): put them back, or remove the folder to start anew."
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        children = (_flat(child, f"{prefix}.{key}" if prefix else str(key)) for key, child in value.items())
        return {key: leaf for child in children for key, leaf in child.items()}
    return {prefix: value}
