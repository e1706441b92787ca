"""Where recorded episodes began, so that an environment can begin there again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STARTS_FILE = "meta/starts.json"
"""In a dataset's folder; LeRobot passes over it."""


@dataclass(frozen=True)
class Start:
    """Of one episode."""

    seed: int
    """Of `reset`."""
    options: Mapping[str, Any]
    """Of `reset`."""
    exact: bool
    """Whether the recorded actions are those that were executed: without noise between the two."""


def write_starts(root: Path, starts: Sequence[Start]) -> None:
    """One start for each episode, in their order."""
    (root / STARTS_FILE).write_text(json.dumps([asdict(start) for start in starts], indent=1) + "\n")


def read_starts(root: Path) -> list[Start]:
    """What `write_starts` wrote; empty if the dataset says nothing about it.

    Raises:
        ValueError: the file is damaged.
    """
    path = root / STARTS_FILE
    if not path.is_file():
        return []
    try:
        return [_checked(Start(**record)) for record in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged ({said}): a list of seed, options and exact, one for each episode.") from None


def _checked(start: Start) -> Start:
    """Of a dataset that may be a stranger's: what an environment is reset with are a number, and words."""
    whole = isinstance(start.seed, int) and start.seed >= 0 and isinstance(start.exact, bool) and isinstance(start.options, dict)
    if not whole or not isinstance(start.options.get("task", ""), str):
        raise ValueError(f"it holds {start!s:.120}")
    return start
