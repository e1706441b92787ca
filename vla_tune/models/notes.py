"""Small JSON files beside what a cache holds."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_note(path: Path, record: Mapping[str, str]) -> None:
    """Write `record`; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(record) + "\n")
    temporary.rename(path)


def read_note(path: Path) -> Mapping[str, Any]:
    """What was written; nothing if it is missing or damaged, since what a cache holds can be made again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
