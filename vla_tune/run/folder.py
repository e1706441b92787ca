"""Run folders: named by their choices; where things lie in them; the command that goes on with one."""

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vla_tune.models.plain_folder import plain
from vla_tune.run.manifest import known_tasks
from vla_tune.run.plain_yaml import read_plain_yaml
from vla_tune.run.recipes import named_alike, recipe_for, share_of
from vla_tune.run.tasks import ALL, tasks_of
from vla_tune.training.loop import CHECKPOINTS

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "results.json"
METRICS_FILE = "metrics.jsonl"
ADAPTER_FOLDER = "adapter"
LOSS_PLOT, SUCCESS_PLOT, ERRORS_PLOT, ACTIONS_PLOT = PICTURES = ("loss.png", "success.png", "held_out.png", "actions.png")
EARLIER = "steps"
"""In a run's folder: what it was at steps before its last."""
_LONGEST_NAME, _DIGEST = 80, 10


def folder_name(*parts: str | int | Sequence[str | int] | None) -> str:
    """Parts, where they say something, joined by `-`, written with letters, digits, `.`, `-` and `_` only: a shell needs no quotes.

    What is a list is one part, its words joined by `_`.

    A name has at most 80 characters: of a longer one the beginning is kept, and a hash of all parts.
    """
    said = (part if isinstance(part, str | int) else "_".join(map(str, part)) for part in parts if part is not None)
    words = [str(part) for part in said]
    clean = (re.sub(r"[^A-Za-z0-9._-]+", "_", word).strip("_") for word in words)
    name = "-".join(part for part in clean if part)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST_NAME - _DIGEST - 1].rstrip('-._')}-{digest}"


def asset(name: str) -> str:
    """The folder of a checkpoint that ships with the package."""
    return str(files("vla_tune") / "assets" / name)


def shipped() -> list[Path]:
    """The folders of all of them."""
    return sorted(Path(asset(".")).resolve().glob("*/"))


def asset_named(path: Path | str) -> str | None:
    """The name of the checkpoint that ships with the package, on this machine or another, which a path leads to."""
    parts = Path(path).parts
    return parts[-1] if parts[-3:-1] == ("vla_tune", "assets") else None


def steps_of(run: Path) -> list[int]:
    """The steps of a run that were saved and kept, in order."""
    return _steps_in(run / CHECKPOINTS)


def earlier_steps(run: Path) -> list[int]:
    """The steps whose state lies as a run of its own in a run."""
    return _steps_in(run / EARLIER)


def step_folder(run: Path, step: int) -> Path:
    """Where a run's state at a step before its last lies as a run of its own."""
    return run / EARLIER / f"step_{step:06d}"


def _steps_in(folder: Path) -> list[int]:
    names = [path.name.removeprefix("step_") for path in folder.glob("step_*")]
    return sorted(int(name) for name in names if name.isdecimal())


_MOST = 1000
"""Environments, or rows, that a run's folder may ask for."""


def task_of(run: str) -> str | list[str]:
    """The task that a training run was about, or its tasks; for a merged policy, those of the run around it."""
    if (folder := run_around(Path(run))) is None:
        raise ValueError(f"{run} has no {CONFIG_FILE} that names a task: write task=<name>.")
    task = read_config(folder).get("task")
    try:
        names = [ALL] if task == ALL else tasks_of(task)
    except ValueError:
        raise ValueError(f"{folder / CONFIG_FILE} has task={str(task)[:80]!r}, which names no task: write task=<name>.") from None
    return names if isinstance(task, list) else names[0]


def tried_with(run: str, name: str, otherwise: Any) -> Any:
    """With which `evaluation.num_envs`, or `rows`, a training run is tried; what is said `otherwise` where there is none."""
    folder = run_around(Path(run))
    said = {} if folder is None else read_config(folder).get("evaluation")
    number = said.get(name) if isinstance(said, dict) else None
    return number if type(number) is int and 0 < number <= _MOST else otherwise  # the run may be a stranger's


def run_around(folder: Path) -> Path | None:
    """The run in a folder, or the one in whose folder it lies, as a merged policy does; None where there is none."""
    return next((place for place in (folder, folder.parent) if (place / CONFIG_FILE).is_file()), None)


def dimension_of(groups: Sequence[Mapping[str, Any]]) -> int:
    """Of the state or the action that an embodiment's `groups` make up."""
    return sum(group["dimension"] for group in groups)


def count_of(items: Sequence[Any]) -> int:
    """How many there are, of an embodiment's cameras."""
    return len(items)


def register_resolvers() -> None:
    """What the YAML files may call."""
    OmegaConf.register_new_resolver("output", lambda: str(output_folder()), replace=True)
    named = (folder_name, asset, task_of, tried_with, tasks_of, dimension_of, count_of, known_tasks)
    for resolver in (*named, named_alike, recipe_for, share_of):
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


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, which may be a stranger's, as plain data.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or would have to be resolved, or a link leads out of the folder.
    """
    path = plain(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no training run; name a folder that scripts/train.py made.")
    return read_plain_yaml(path)


def load_config(folder: Path) -> DictConfig:
    """The same, to be read by attributes; it holds no interpolation. What it describes is built by `run.stored`."""
    return OmegaConf.create(read_config(folder))
