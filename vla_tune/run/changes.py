"""What of a run's configuration may change when it goes on, and the note that is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_tune.run.folder import asset_named, steps_of
from vla_tune.schema import read_object, write_json
from vla_tune.training.resumption import Changed, Exact, Resumption

CHANGES_FILE = "changes.json"
SAME, CHANGED = "same", "changed"
"""What `resume=` may be."""
_MEASURES = ("evaluation", "env", "success", "execution", "ablation")
"""How a finished run is tried: after a change it is tried again."""
_SHOWS = ("evaluation.films", "evaluation.filmed", "evaluation.num_envs", "environments", "cells")
_FREE = (
    *_MEASURES,
    "environments",
    "cells",
    "logger",
    "device",
    "gpu",
    "fit",
    "plan",
    "resume",
    "validation",
    "on_non_finite",
    "model.cache",
    "learning_rates",  # a recipe's: what was taken of them stands in `optimizer`
    "warmup_steps",
    "training.workers",
    "training.validate_every",
    "training.save_every",
    "training.keep_last",
)
"""Changes no step."""
_FOR_GOOD = ("adapter", "head", "model.additions", "model.state_dimension", "start")
"""What was learned has its shape, or began with it."""
_NOT_FOR_GOOD = ("adapter.dropout", "adapter.base", "adapter.folder")
_UNSAID = (
    "execute_steps",
    "model.state_dimension",
)
"""What older runs do not say, which means all of the horizon, or what the base says."""
_MEANT = {
    "ablation.wrong_instruction._target_": "vla_tune.run.ablations.WrongInstruction",
    "average._target_": "vla_tune.training.average.Last",
    "execution.blend": 0,
}
"""What older runs do not say either, and meant."""
_MOVED = {"vla_tune.heads.loss.": "vla_tune.models.heads.codes.", "vla_tune.heads.": "vla_tune.models.heads."}
"""Where a class lies today that older runs name elsewhere."""
_STEPS = "training.steps"
_SHARES = ("schedule.warmup_steps", "schedule.decay_at")
"""Grow with the steps."""
_LEVEL = "vla_tune.training.optim.constant"
"""The schedule that does not ask how many steps there will be."""


@dataclass(frozen=True)
class Change:
    """A setting that is another than it was."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        """As a message says it."""
        return f"{self.key}: {self.before!r} there, {self.now!r} now"

    @property
    def free(self) -> bool:
        """Whether no step of training depends on it."""
        return _under(self.key, _FREE) or (self.before is None and self.key in _UNSAID)

    @property
    def measures(self) -> bool:
        """Whether a finished run's results depend on it."""
        return _under(self.key, _MEASURES) and not _under(self.key, _SHOWS)

    @property
    def for_good(self) -> bool:
        """Whether what was learned fits no other value."""
        return _under(self.key, _FOR_GOOD) and not _under(self.key, _NOT_FOR_GOOD)

    @property
    def longer(self) -> bool:
        """Whether it is a number of steps that grew."""
        return self.key == _STEPS and isinstance(self.before, int) and isinstance(self.now, int) and self.now > self.before


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Between two configurations, by their keys."""
    then, new = ({key: _today(value) for key, value in _flat(each).items()} for each in (before, now))
    pairs = {key: (then.get(key, _MEANT.get(key)), new.get(key)) for key in sorted(then.keys() | new.keys())}
    return [Change(key, *pair) for key, pair in pairs.items() if pair[0] != pair[1] and not _same_asset(*pair)]


def check_changes(changes: Sequence[Change], *, resume: Any, what: str) -> list[Change]:
    """Those that are to be noted, of a run that goes on.

    Args:
        changes: All of them.
        resume: What the user says about it; None where nothing can be said.
        what: How the message begins.

    Raises:
        ValueError: one is not allowed; the keys and the way out are named.
    """
    if resume not in (None, SAME, CHANGED):
        raise ValueError(f"resume={resume!r}: choose {SAME}, or {CHANGED} to go on with other settings.")
    weighed = [change for change in changes if not change.free]
    refused = [change for change in weighed if change.for_good]
    if resume != CHANGED:
        longer = any(change.longer for change in weighed)
        refused = [change for change in weighed if not (change.longer or (longer and change.key in _SHARES))]
    if refused:
        raise ValueError(f"{what} ({_some(refused)}): {_way_out(refused, resume)}")
    return weighed


def note(folder: Path, changes: Sequence[Change], *, step: int, schedule: str = "") -> None:
    """Add to the notes in `folder` what changed at `step`; a note that is there already is not repeated."""
    exact = schedule == _LEVEL and all(change.longer for change in changes)
    record = {
        "step": step,
        "changed": {change.key: [change.before, change.now] for change in changes},
        "as_if_begun_with_it": exact,
    }
    path = folder / CHANGES_FILE
    notes = _notes(path) if path.is_file() else []
    if record not in notes:
        write_json(path, {"changes": [*notes, record]})


def resumption(folder: Path) -> Resumption:
    """How the training in `folder` goes on: with what was noted since its last checkpoint, or with the same bits."""
    done, path = steps_of(folder), folder / CHANGES_FILE
    notes = _notes(path) if done and path.is_file() else []
    return Changed() if any(note["step"] == done[-1] for note in notes) else Exact()


def _notes(path: Path) -> list[dict[str, Any]]:
    notes = read_object(path).get("changes")
    if not isinstance(notes, list) or not all(isinstance(note, dict) and type(note.get("step")) is int for note in notes):
        raise ValueError(f"{path} holds no notes of changes: copy the run again.")
    return notes


def _way_out(refused: Sequence[Change], resume: Any) -> str:
    if any(change.for_good for change in refused):
        named = ", ".join(change.key for change in refused if change.for_good)
        return f"what was learned belongs to {named}. Put it back, or choose another folder (hydra.run.dir=...)."
    if resume is None:
        return "put them back, or remove the folder to start anew."
    return (
        f"put them back, or say resume={CHANGED} to go on with the new ones, which is noted in the folder, or choose another "
        "folder (hydra.run.dir=...) to start anew."
    )


def _some(changes: Sequence[Change]) -> str:
    more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
    return ", ".join(map(str, changes[:5])) + more


def _today(value: Any) -> Any:
    """A value in which a name of older runs is today's."""
    found = [name for name in _MOVED if isinstance(value, str) and value.startswith(name)]
    return _MOVED[found[0]] + value.removeprefix(found[0]) if found else value


def _same_asset(before: Any, now: Any) -> bool:
    """Whether both lead to a checkpoint that ships with the package, wherever that lies on a machine."""
    return (
        isinstance(before, str)
        and isinstance(now, str)
        and asset_named(before) is not None
        and asset_named(before) == asset_named(now)
    )


def _under(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        children = (_flat(child, f"{prefix}.{key}" if prefix else str(key)) for key, child in value.items())
        return {key: leaf for child in children for key, leaf in child.items()}
    return {prefix: value}
