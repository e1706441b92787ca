"""The record of an episode, its seed, and tables of records on disk."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vla_tune.schema import appearing

_KEY = b"vla_tune.key"
_MOST_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """How one episode went."""

    suite: str
    task: str
    episode: int
    seed: int
    """Of the environment: `episode_seed(...)`."""
    instruction: str
    """As the policy read it at the start."""
    success: bool
    """By the rule of the evaluation: reached at any step, unless it says that the last one counts."""
    steps: int
    episode_return: float
    """Sum of the rewards."""
    outside_mass: float | None
    """Probability of ids that are no action code, mean over the first chunk; None where the policy has no codes."""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Suite, task, episode and seed: equal where two policies met the same start."""
        return self.suite, self.task, self.episode, self.seed


def episode_seed(seed: int, *, suite: str, task: str, episode: int) -> int:
    """The environment's seed, below 2**32: the same on every machine, in every order and at every number of environments."""
    text = json.dumps([seed, suite, task, episode])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def write_episodes(path: Path, records: Sequence[EpisodeRecord], *, key: Any = None) -> None:
    """Write a parquet table, one row per episode, with `key` (JSON data saying what was evaluated) in its metadata.

    The file appears under its name only when it is complete.
    """
    names = [field.name for field in fields(EpisodeRecord)]
    columns = {name: [getattr(record, name) for record in records] for name in names}
    table = pa.table(columns, schema=_SCHEMA).replace_schema_metadata({_KEY: json.dumps(key, sort_keys=True)})
    with appearing(path) as partial:
        pq.write_table(table, partial)


def read_episodes(path: Path) -> tuple[list[EpisodeRecord], Any]:
    """The records of a table, and its key.

    Raises:
        ValueError: it is no such table.
    """
    try:
        with pq.ParquetFile(path) as file:
            key = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"null"))
            if not file.schema_arrow.equals(_SCHEMA) or file.metadata.num_rows > _MOST_ROWS:
                raise ValueError(f"its columns or its {file.metadata.num_rows} rows are not those of episodes")
            return [EpisodeRecord(**row) for row in file.read().to_pylist()], key
    except (pa.ArrowException, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): delete it to play the cell again.") from None


_TYPES = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float64(), float | None: pa.float64()}
_SCHEMA = pa.schema(
    [
        pa.field(field.name, _TYPES[field.type], nullable=field.type == float | None)  # pyright: ignore[reportArgumentType]
        for field in fields(EpisodeRecord)
    ]
)
