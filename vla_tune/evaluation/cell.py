"""One cell of an evaluation: a policy on a task. What was played of a cell is read instead of played again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vla_tune.evaluation.environments import MakeEnv, Vectorize, in_turn
from vla_tune.evaluation.episodes import EpisodeRecord, read_episodes, write_episodes
from vla_tune.evaluation.kept import flat
from vla_tune.evaluation.progress import Telling, progress
from vla_tune.evaluation.rollout import rollout, to_stderr
from vla_tune.evaluation.stage import Rules
from vla_tune.evaluation.watcher import NOBODY, Several, Watcher
from vla_tune.execution import Execution
from vla_tune.schema import Embodiment, Observation, Policy, content_hash

_WORLD = {"code", "environment", "fingerprint", "protocol"}
"""Of a cell, what a user does not choose anew with each evaluation."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is evaluated; everything that may change a result is in it, and how fast it is played is not."""

    policy: str
    """What it is called in the results: `base`, `fine_tuned`, `wrong_instruction`, `merged`, ..."""
    identity: str
    """`policy_identity(...)`: a hash of what it is and how it is run."""
    suite: str
    task: str
    environment: str
    """The environment in words that differ where it differs: its id, arguments and wrappers."""
    protocol: str
    """By which rules it is played, as a name that stands with each number: of two numbers only those of one are compared."""
    code: Mapping[str, Any]
    """`code_of(...)`: what it and this package are written as."""
    fingerprint: Mapping[str, str | None]
    """`look_at(...).fingerprint`: who draws it, and how its first episode begins."""
    episodes: int
    seed: int
    execution: Execution
    rules: Rules

    @property
    def record(self) -> dict[str, Any]:
        """The cell as JSON data."""
        kind = type(self.execution).__name__
        execution = {"kind": kind, **asdict(self.execution)}  # pyright: ignore[reportArgumentType]
        rules = asdict(self.rules) | {"success": type(self.rules.success).__name__}
        return asdict(self) | {"execution": execution, "rules": rules}

    def path(self, folder: Path) -> Path:
        """Where its episodes lie: a readable name that is different for every cell."""
        return folder / f"{self.policy}-{self.task}-{content_hash(self.record)[:12]}.parquet"


def policy_identity(folders: Iterable[Path], *, run: Mapping[str, Any]) -> str:
    """SHA-256 over the weights and the JSON files of a policy, and over how it is run.

    Args:
        folders: The checkpoint, and its adapter if that lies in another folder.
        run: JSON data on what else rounds differently: precision, rows of a forward pass, device.

    Raises:
        ValueError: a folder holds no weights.
    """
    total = sha256(content_hash(dict(run)).encode())
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".pt"))
        if not any(path.suffix == ".safetensors" for path in files):
            raise ValueError(f"{folder} holds no *.safetensors: give the folder of a checkpoint or an adapter.")
        for path in files:
            about = path.stat()
            total.update(path.name.encode() + b"\0" + _digest(path, about.st_size, about.st_mtime_ns))
    return total.hexdigest()


@lru_cache
def _digest(path: Path, size: int, modified_ns: int) -> bytes:
    """SHA-256 of a file, read once for all cells of an evaluation: weights are gigabytes."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()


@runtime_checkable
class Cells(Protocol):
    """What becomes of cells that were played before."""

    def known(self, folder: Path, cell: Cell) -> list[EpisodeRecord]:
        """Episodes that need not be played: all, some, or none."""
        ...


@dataclass(frozen=True)
class Kept:
    """What was played is read."""

    def known(self, folder: Path, cell: Cell) -> list[EpisodeRecord]:
        """Of a finished cell all episodes, of one that was cut short those that were finished."""
        return finished(folder, cell) or _read(_begun(cell.path(folder)), cell) or []


@dataclass(frozen=True)
class Again:
    """Every cell is played once more, and its records are replaced."""

    def known(self, folder: Path, cell: Cell) -> list[EpisodeRecord]:
        """None."""
        return []


def finished(folder: Path, cell: Cell) -> list[EpisodeRecord] | None:
    """The records of a cell that was played to its end, else None."""
    records = _read(cell.path(folder), cell)
    if records is not None and len(records) != cell.episodes:
        raise _edited(cell.path(folder))
    return records


def evaluate_cell(
    folder: Path,
    cell: Cell,
    *,
    policy: Policy,
    make_env: MakeEnv,
    embodiment: Embodiment,
    num_envs: int,
    cells: Cells | None = None,
    vectorize: Vectorize = in_turn,
    watcher: Watcher = NOBODY,
    telling: Telling = progress,
    tell: Callable[[str], None] = to_stderr,
) -> list[EpisodeRecord]:
    """The cell's records, played now and kept in `folder`, or read from there if it was finished before.

    Each episode is kept as soon as it is over: a cell that is cut short goes on where it was.
    """
    path, known = cell.path(folder), (cells or Kept()).known(folder, cell)
    with telling(cell.policy, cell.task, cell.episodes, done=known) as far:
        if len(known) == cell.episodes:
            tell(f"{cell.policy} on {cell.task}: read from {path}; cells=again plays it again.")
            return known
        if said := _what_is_known(folder, cell, known):
            tell(said)
        records = rollout(
            policy,
            make_env,
            suite=cell.suite,
            task=cell.task,
            episodes=cell.episodes,
            seed=cell.seed,
            embodiment=embodiment,
            execution=cell.execution,
            num_envs=num_envs,
            rules=cell.rules,
            done=known,
            vectorize=vectorize,
            watcher=Several([watcher, _Keeping(_begun(path), cell, list(known)), far]),
            tell=tell,
        )
    write_episodes(path, records, key=cell.record)
    _begun(path).unlink(missing_ok=True)
    return records


@dataclass(frozen=True)
class _Keeping:
    """Writes what is over (a `Watcher`)."""

    path: Path
    cell: Cell
    records: list[EpisodeRecord]

    def looks(self, episode: int) -> bool:
        """Never."""
        return False

    def see(self, episode: int, observation: Observation) -> None:
        """Looks away."""

    def finish(self, record: EpisodeRecord) -> None:
        """Writes the episodes so far."""
        self.records.append(record)
        write_episodes(self.path, self.records, key=self.cell.record)


def _what_is_known(folder: Path, cell: Cell, known: Sequence[EpisodeRecord]) -> str | None:
    if not known:
        return _why_again(folder, cell)
    read = f"{len(known)} of {cell.episodes} episodes read from {_begun(cell.path(folder))}"
    return f"{cell.policy} on {cell.task}: {read}, the others are played."


def _why_again(folder: Path, cell: Cell) -> str | None:
    """What the world, or its code, was another by, of an evaluation that is alike in all that a user says; None of any other."""
    best: list[str] | None = None
    for path in folder.glob(f"{cell.policy}-{cell.task}-*.parquet"):
        try:
            about = read_episodes(path)[1]
        except ValueError:  # a damaged one is another cell's, as this cell's own is read before
            continue
        about = flat(about) if isinstance(about, Mapping) else {}
        names = [name for name, value in flat(cell.record).items() if about.get(name) != value]
        if {name.partition(".")[0] for name in names} <= _WORLD and (best is None or len(names) < len(best)):
            best = names
    if not best:
        return None
    return f"{cell.policy} on {cell.task}: played before with another {', '.join(sorted(best))}; it is played again."


def _begun(path: Path) -> Path:
    """Where the episodes of a cell lie until all are played."""
    return path.with_name(f"{path.stem}.begun.parquet")


def _read(path: Path, cell: Cell) -> list[EpisodeRecord] | None:
    if not path.is_file():
        return None
    records, key = read_episodes(path)
    if key != cell.record:
        raise _edited(path)
    return records


def _edited(path: Path) -> ValueError:
    return ValueError(f"{path} does not hold what its name says: it was edited or cut; delete it to play the cell again.")
