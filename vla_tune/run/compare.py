"""Runs that were evaluated, compared start by start: tables, JSON and a picture."""

import glob
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from vla_tune.evaluation.kept import Wanted
from vla_tune.evaluation.paired import Candidate, pair
from vla_tune.evaluation.pairwise import compare_all
from vla_tune.evaluation.pairwise_report import pairwise_markdown, pairwise_tables, plot_pairwise, sentences
from vla_tune.printing import say, show
from vla_tune.run.folder import folder_name
from vla_tune.run.tasks import tasks_of
from vla_tune.schema import write_json, write_whole

_COMPARISONS = Path("runs/comparisons")


def compare_runs(cfg: DictConfig) -> dict[str, Any]:
    """What `scripts/compare.py` does: compare `cfg.runs`, print what was found and write it into `cfg.to`.

    Raises:
        ValueError: the runs cannot be compared, and why.
    """
    candidates = _candidates(cfg.runs, cfg.names)
    only = cfg.only
    tasks = None if only.tasks is None else tasks_of(only.tasks)
    wanted = Wanted(policy=only.policy, tasks=tasks, suite=only.suite, seed=only.seed, execution=only.execution)
    found = compare_all(pair(candidates, wanted=wanted, accept=list(cfg.accept)), margin=cfg.margin)
    names = [one.name for one in candidates]
    folder = _COMPARISONS / folder_name(*names) if cfg.to is None else Path(cfg.to)
    write_whole(folder / "comparison.md", pairwise_markdown(found))
    write_json(folder / "comparison.json", found)
    plot_pairwise(found, folder / "comparison.png", title=", ".join(names) if len(names) < 4 else f"{len(names)} candidates")
    show(*pairwise_tables(found))
    for sentence in sentences(found):
        say(sentence)
    say(f"Written to {folder}")
    return found


def _candidates(runs: Any, names: Any) -> list[Candidate]:
    """Each entry of `runs` is a folder, a pattern of folders or a list of these."""
    if not isinstance(runs, ListConfig):
        raise ValueError(f"runs={runs}: name two or more, runs=[runs/one,runs/other].")
    folders = [[Path(run) for part in _parts(entry) for run in _folders(str(part))] for entry in runs]
    called = _called(folders) if names is None else [str(name) for name in names]
    if len(called) != len(folders):
        raise ValueError(f"names={called}: {len(folders)} entries of runs need as many names.")
    if twice := [name for name in called if called.count(name) > 1]:
        raise ValueError(f"two candidates are called {twice[0]!r}: give each a name of its own, names=[...], and each run once.")
    return [Candidate(name=name, runs=of) for name, of in zip(called, folders, strict=True)]


def _parts(entry: Any) -> Sequence[Any]:
    return OmegaConf.to_object(entry) if isinstance(entry, ListConfig) else [entry]  # pyright: ignore[reportReturnType]


def _folders(text: str) -> list[str]:
    if not glob.has_magic(text) or Path(text).is_dir():
        return [text]
    if not (found := [name for name in sorted(glob.glob(text)) if Path(name).is_dir()]):
        raise ValueError(f"runs: no folder is called {text}.")
    return found


def _called(folders: Sequence[Sequence[Path]]) -> list[str]:
    """The last part of a folder's name, or more of it where two end alike; of several folders what these begin with."""
    texts = [_common([str(run) for run in runs]) for runs in folders]
    for parts in range(1, 1 + max(len(Path(text).parts) for text in texts)):
        short = ["/".join(Path(text).parts[-parts:]) for text in texts]
        if len(set(short)) == len(short):
            return short
    return texts


def _common(names: Sequence[str]) -> str:
    """Of names that are joined by `-`, the beginning that is the same; the first name where there is none."""
    words = zip(*(name.split("-") for name in names), strict=False)
    return "-".join(word[0] for word in takewhile(lambda word: len(set(word)) == 1, words)) or names[0]
