"""Which state of a run a command is about: its last, its best, or that of a step; also of a run that is not finished."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vla_tune.check.kept import KEPT_FILE, Kept
from vla_tune.models.files import new_folder
from vla_tune.models.notes import read_note
from vla_tune.models.plain_folder import plain
from vla_tune.models.sealed import seal
from vla_tune.printing import say
from vla_tune.run.folder import ADAPTER_FOLDER, CONFIG_FILE, EARLIER, earlier_steps, step_folder, steps_of
from vla_tune.run.objects import policy_of
from vla_tune.run.origin import ORIGIN_FILE, say_base
from vla_tune.run.stored import adapter_of, checkpoint_of
from vla_tune.schema import BaseWeights, Contract, write_json
from vla_tune.training.checkpoint import TRAINED, CheckpointFolder, load_trained
from vla_tune.training.loop import CHECKPOINTS

TAKEN_FILE = "taken_from.json"
LAST, BEST = "last", "best"


def chosen_run(cfg: DictConfig, run: Path) -> Path:
    """The folder of `run` as `cfg.use`, `cfg.step` and `cfg.model.folder` choose it; it is a finished run.

    Raises:
        ValueError: there is no such state, the two contradict each other, or the base is another.
    """
    if cfg.model.folder is not None:
        say_base(run, Path(cfg.model.folder), checkpoint_of(run, folder=Path(cfg.model.folder)))
    step = wanted_step(plain(run), use=cfg.use, step=cfg.step)
    if step is None:
        return run
    say(f"{run}: what it had learned at step {step} is used.")
    return at_step(run, step)


def wanted_step(run: Path, *, use: str | None, step: int | None) -> int | None:
    """The step that is meant; None for what a finished run came to, or a folder that is no run.

    Raises:
        ValueError: there is no such step, or both are given.
    """
    if use not in (None, LAST, BEST):
        raise ValueError(f"use={use!r}: choose {LAST}, {BEST}, or step=<number>.")
    if use is not None and step is not None:
        raise ValueError(f"use={use} and step={step} are two choices: name one of them.")
    done, finished = steps_of(run), (run / ADAPTER_FOLDER).is_dir()
    if not done:
        if step is not None or use == BEST:
            raise ValueError(f"{run} holds no checkpoints: leave out use= and step=.")
        return None
    wanted = _best(run) if use == BEST else step
    if wanted is None:
        wanted = done[-1]
    if finished and wanted == done[-1]:
        return None
    kept = sorted({*done, *earlier_steps(run)})
    if wanted not in kept:
        raise ValueError(f"step={wanted} of {run} is not kept: choose one of {', '.join(map(str, kept))} (training.keep_last).")
    return wanted


def step_in(run: Path) -> int | None:
    """The step at which a run, or a state of one, had learned what its adapter holds; None where that is not known."""
    if run.parent.name == EARLIER:
        return int(run.name.removeprefix("step_"))
    return next(reversed(steps_of(run)), None)


def at_step(run: Path, step: int) -> Path:
    """A folder in `run` that holds what it had learned at `step`, as a finished run does; made if it is not there yet.

    Raises:
        ValueError: the checkpoint is damaged, or was removed by the run that goes on.
    """
    source, target = CheckpointFolder(run / CHECKPOINTS, keep_last=1).folder(step), step_folder(run, step)
    if not source.is_dir() or _is_of(target, source):
        return target
    shutil.rmtree(target, ignore_errors=True)
    checkpoint, adapter = checkpoint_of(run), adapter_of(run)
    model = checkpoint.load(device="cpu")
    adapter.attach(model)
    load_trained(model, source)
    base, contract = BaseWeights(content_hash=checkpoint.content_hash(), format=adapter.base), Contract.load(run)
    with new_folder(target) as temporary:
        for name in (CONFIG_FILE, ORIGIN_FILE):
            if (run / name).is_file():
                shutil.copy(run / name, temporary)
        contract.save(temporary)
        adapter.save(temporary / ADAPTER_FOLDER, model, base_hash=base.content_hash)
        replace(contract, base=base).save(temporary / ADAPTER_FOLDER)
        seal(temporary / ADAPTER_FOLDER)
        if (run / KEPT_FILE).is_file():
            policy = policy_of(model, contract, checkpoint.interface(contract), rows=1, device="cpu")
            Kept.of(policy, Kept.load(run).seen, contract).save(temporary)
        write_json(temporary / TAKEN_FILE, _taken(source, step))
    return target


def _best(run: Path) -> int:
    best = CheckpointFolder(run / CHECKPOINTS, keep_last=1).best()
    if best is None:
        raise ValueError(f"{run} was not validated yet, so no checkpoint is the best: use={LAST}.")
    return int(best.name.removeprefix("step_"))


def _is_of(target: Path, source: Path) -> bool:
    """Whether it was made from this checkpoint, or set aside when the run went on."""
    if not (target / ADAPTER_FOLDER).is_dir():
        return False
    note = target / TAKEN_FILE
    return not note.is_file() or read_note(note) == _taken(source, int(target.name.removeprefix("step_")))


def _taken(source: Path, step: int) -> dict[str, Any]:
    with (source / TRAINED).open("rb") as file:
        return {"step": step, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
