"""Measurements for programs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_report(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON that appears under its name only when it is complete.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
