"""One cell of an evaluation: a policy on a task. A cell that was finished is read instead of played again."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from vla_tune.evaluation.environments import MakeEnv, Vectorize, in_turn
from vla_tune.evaluation.episodes import EpisodeRecord, read_episodes, write_episodes
from vla_tune.evaluation.rollout import rollout
from vla_tune.evaluation.stage import Rules
from vla_tune.evaluation.watcher import NOBODY, Watcher
from vla_tune.execution import Execution
from vla_tune.policy import Policy
from vla_tune.schema import Embodiment, content_hash


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
            with path.open("rb") as file:
                total.update(path.name.encode() + b"\0" + file_digest(file, "sha256").digest())
    return total.hexdigest()


def finished(folder: Path, cell: Cell) -> list[EpisodeRecord] | None:
    """The records of a cell that was played to its end, else None."""
    path = cell.path(folder)
    if not path.is_file():
        return None
    records, key = read_episodes(path)
    if key != cell.record or len(records) != cell.episodes:
        raise ValueError(f"{path} does not hold what its name says: it was edited or cut; delete it to play the cell again.")
    return records


def evaluate_cell(
    folder: Path,
    cell: Cell,
    *,
    policy: Policy,
    make_env: MakeEnv,
    embodiment: Embodiment,
    num_envs: int,
    vectorize: Vectorize = in_turn,
    watcher: Watcher = NOBODY,
) -> list[EpisodeRecord]:
    """The cell's records, played now and kept in `folder`, or read from there if it was finished before."""
    if (records := finished(folder, cell)) is not None:
        return records
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
        vectorize=vectorize,
        watcher=watcher,
    )
    write_episodes(cell.path(folder), records, key=cell.record)
    return records
