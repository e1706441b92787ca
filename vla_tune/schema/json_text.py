"""JSON of others, read within bounds: what is wrong with it is one line that names the file."""

import json
import math
from pathlib import Path
from typing import Any

LARGEST_BYTES = 64 * 1024**2
DEEPEST = 64
"""Levels of brackets: no file of ours or of a published checkpoint has ten."""


def read_json(path: Path, *, largest: int = LARGEST_BYTES) -> Any:
    """The value in `path`, strictly: no NaN or infinity, no key twice, at most `largest` bytes and `DEEPEST` levels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: copy the folder again.")
    with path.open("rb") as file:
        content = file.read(largest + 1)  # a size that is asked before may be another one when it is read
    if len(content) > largest:
        raise ValueError(f"{path} has more than {largest} bytes: it is not the file that is read here; copy it again.")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again.") from None
    return json_value(text, source=str(path))


def read_object(path: Path, *, largest: int = LARGEST_BYTES) -> dict[str, Any]:
    """The JSON object in `path`, as `read_json`; what is no object is refused too."""
    record = read_json(path, largest=largest)
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}, not an object: copy it again.")
    return record


def json_value(text: str, *, source: str) -> Any:
    """The value that `text` writes; `source` is named in errors. The text's size is the caller's to bound.

    Raises:
        ValueError: it is no JSON, is nested too deep, has a key twice, or a number that is not finite.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refused)
    except RecursionError:
        raise ValueError(f"{source} is nested deeper than {DEEPEST} levels: copy it again.") from None
    except ValueError as error:
        raise ValueError(f"{source} is damaged ({error}): copy it again.") from None
    _check_depth(value, source)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:80]!r} is there twice")
    return record


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refused(text)
    return number


def _refused(text: str) -> Any:
    raise ValueError(f"{text[:40]} is no finite number")


def _check_depth(value: Any, source: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    raise ValueError(f"{source} is nested deeper than {DEEPEST} levels: copy it again.")


def _children(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in children if isinstance(child, dict | list)]
