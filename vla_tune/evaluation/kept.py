"""The evaluations that a run keeps, and which of them a comparison takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_tune.evaluation.episodes import EpisodeRecord, read_episodes

CELLS = "evaluation"
"""In a run's folder: where `scripts/eval.py` keeps what was played."""
_OWN, _MISLED = "fine_tuned", "wrong_instruction"
_PLAYER = ("policy", "identity", "execution")
"""What of a cell says who played, and how it executes its chunks."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which evaluations are compared; None takes all."""

    policy: str | None = None
    """None is the run's own: the fine-tuned one, or the only one that was tried with its own instruction."""
    tasks: Sequence[str] | None = None
    suite: str | None = None
    seed: int | None = None
    execution: str | None = None
    """The name of its class: `OpenLoop`, `RecedingHorizon`, ..."""

    def __call__(self, about: Mapping[str, Any]) -> bool:
        """Whether an evaluation is among them."""
        kind = about["execution"].get("kind") if isinstance(about.get("execution"), dict) else None
        asked = {"suite": self.suite, "seed": self.seed}
        return (
            all(value is None or about.get(name) == value for name, value in asked.items())
            and (self.tasks is None or about["task"] in self.tasks)
            and (self.execution is None or kind == self.execution)
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A policy on a task, as it was kept."""

    path: Path
    about: Mapping[str, Any]
    """The record of its `Cell`."""
    records: Sequence[EpisodeRecord]

    @property
    def task(self) -> str:
        """Which task."""
        return str(self.about["task"])

    @property
    def world(self) -> tuple[str, str, str]:
        """Suite, task and environment."""
        return str(self.about.get("suite")), self.task, str(self.about.get("environment"))

    @property
    def player(self) -> dict[str, Any]:
        """Who played, by dotted name."""
        return {name: value for name, value in flat(self.about).items() if name.partition(".")[0] in _PLAYER}

    @property
    def conditions(self) -> dict[str, Any]:
        """All else that a result depends on, by dotted name: task, seed, episodes, environment, rules, code."""
        return {name: value for name, value in flat(self.about).items() if name.partition(".")[0] not in _PLAYER}


def evaluations_of(folder: Path, wanted: Wanted) -> list[Evaluation]:
    """The finished evaluations of one policy that a run, a merged policy or the folder of a base keeps.

    Raises:
        ValueError: there are none, or it is not clear of which policy.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name runs that scripts/eval.py evaluated.")
    paths = sorted((folder / CELLS).glob("*.parquet"))
    found = [_read(path) for path in paths if not path.stem.endswith(".begun")]
    again = f"evaluate it: scripts/eval.py run={folder}."
    if not found and paths:
        raise ValueError(f"the evaluation of {folder} was cut short ({paths[0].name}): give its command again, or {again}")
    if not found:
        raise ValueError(f"{folder} keeps no evaluation (no {CELLS}/*.parquet): {again}")
    policy = _policy(folder, {str(one.about["policy"]) for one in found}, wanted.policy)
    taken = [one for one in found if one.about["policy"] == policy and wanted(one.about)]
    if not taken:
        kept = ", ".join(sorted({f"{one.task} (seed {one.about.get('seed')})" for one in found if one.about["policy"] == policy}))
        raise ValueError(f"{folder} keeps none of the evaluations that are asked for; of {policy} it keeps {kept}.")
    return taken


def flat(record: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted names -> values that are no mappings."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def _read(path: Path) -> Evaluation:
    records, about = read_episodes(path)
    if not isinstance(about, dict) or not {"policy", "task"} <= about.keys() or about.get("episodes", len(records)) != len(records):
        raise ValueError(f"{path} does not hold what its name says: it was edited or cut; delete it and evaluate again.")
    if len({record.key for record in records}) != len(records):
        raise ValueError(f"{path} holds an episode twice: delete it and evaluate again.")
    return Evaluation(path=path, about=about, records=sorted(records, key=lambda record: record.key))


def _policy(folder: Path, names: set[str], asked: str | None) -> str:
    told = ", ".join(sorted(names))
    if asked is not None:
        if asked not in names:
            raise ValueError(f"{folder} keeps no evaluation of only.policy={asked}: choose one of {told}.")
        return asked
    own = {_OWN} & names or names - {_MISLED} or names
    if len(own) > 1:
        raise ValueError(f"{folder} keeps evaluations of several policies: say only.policy=<name>, one of {told}.")
    return own.pop()
