"""Records <-> JSON data, strictly: no value becomes another kind of value."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

LONGEST_LIST = 4096
"""Items: 256 bin edges are the most that there are; a vocabulary is one text."""
_DEEPEST = 16
"""Levels of data that somebody else reads."""
_SHOWN = 60
"""Characters of a wrong value that an error repeats."""
_NAMED = 5
"""Unknown fields that an error names."""

YOUNGER = {"vla_tune.younger": True}
"""Metadata of a field that older files of the same version lack: its default is not written, so that their hashes stay."""

type _Problems = list[str]
type _Reader = Callable[[Any, Any, str, _Problems], Any]
"""Kind, value, path; says what is wrong among the problems."""


def to_record(value: Any) -> Any:
    """A record of this package as plain JSON data."""
    if is_dataclass(value):
        return {entry.name: to_record(getattr(value, entry.name)) for entry in fields(value) if not _unsaid(value, entry)}
    if isinstance(value, Mapping):
        return {key: to_record(child) for key, child in value.items()}
    return [to_record(child) for child in value] if isinstance(value, list | tuple) else value


def _unsaid(value: Any, entry: Field) -> bool:
    return entry.metadata.keys() >= YOUNGER.keys() and getattr(value, entry.name) == entry.default


def content_hash(record: Any) -> str:
    """SHA-256 over canonical JSON."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def structured[T](record: Any, kind: type[T], source: str) -> T:
    """The `kind` that `record` describes; numbers must be finite, and a whole number may stand for a float only.

    Raises:
        ValueError: a field is missing, unknown, or of another type; `source` and the fields are named.
    """
    problems: _Problems = []
    value = _read(kind, record, "", problems)
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems[:5])}. Required fields have no default: write them out.")
    return value


def _read(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    reader = _record if is_dataclass(kind) else _READERS[get_origin(kind) or kind]
    return reader(kind, value, path, problems)


def _wrong(value: Any, expected: str, path: str, problems: _Problems) -> None:
    shown = repr(value)[:_SHOWN] if isinstance(value, str | bool | int | float | NoneType) else f"a {type(value).__name__}"
    problems.append(f"{shown} @ {path or '.'} is not {expected}")


def _record(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(value, f"an object ({kind.__name__})", path, problems)
    known, hints = {entry.name: entry for entry in fields(kind)}, get_type_hints(kind)
    if unknown := sorted(str(key)[:_SHOWN] for key in value.keys() - known.keys()):
        problems.append(f"extra fields found ({', '.join(unknown[:_NAMED])}) @ {path or '.'}")
    before = len(problems)
    for name, entry in known.items():
        if name not in value and entry.default is MISSING:
            problems.append(f"required field missing @ {path}.{name}")
    read = {name: _read(hints[name], value[name], f"{path}.{name}", problems) for name in known if name in value}
    return kind(**read) if len(problems) == before else None


def _list(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    of = get_args(kind)
    exact = None if of[-1] is Ellipsis else len(of)
    if not isinstance(value, list | tuple) or len(value) > LONGEST_LIST or exact not in (None, len(value)):
        return _wrong(value, f"a list of {exact or f'at most {LONGEST_LIST}'}", path, problems)
    kinds = of if exact else (of[0],) * len(value)
    pairs = zip(kinds, value, strict=True)
    return tuple(_read(each, child, f"{path}[{place}]", problems) for place, (each, child) in enumerate(pairs))


def _object(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    if not isinstance(value, Mapping) or len(value) > LONGEST_LIST or not all(isinstance(key, str) for key in value):
        return _wrong(value, f"an object of at most {LONGEST_LIST} fields", path, problems)
    _, of = get_args(kind)
    return {key: _read(of, child, f"{path}.{key[:_SHOWN]}", problems) for key, child in value.items()}


def _choice(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    if isinstance(value, str) and value in get_args(kind):
        return value
    return _wrong(value, f"one of {', '.join(get_args(kind))}", path, problems)


def _one_of(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    """What may be absent; or a record among several, by its `kind`, and the first where none has it."""
    if value is None and NoneType in get_args(kind):
        return None
    kinds = [each for each in get_args(kind) if each is not NoneType]
    named = value.get("kind") if isinstance(value, Mapping) else None
    tagged = [each for each in kinds if is_dataclass(each) and named in _tags(each)]
    return _read((tagged or kinds)[0], value, path, problems)


def _tags(kind: Any) -> tuple[Any, ...]:
    return get_args(get_type_hints(kind).get("kind", None))


def _exactly(expected: str) -> _Reader:
    def read(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
        return value if type(value) is kind else _wrong(value, expected, path, problems)

    return read


def _number(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    try:
        if type(value) in (int, float) and math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    return _wrong(value, "a finite number", path, problems)


def _plain(kind: Any, value: Any, path: str, problems: _Problems) -> Any:
    """JSON data whose reader is another: finite numbers, texts, lists and objects, not too deep."""
    if path.count(".") + path.count("[") > _DEEPEST:
        return _wrong(value, f"JSON data of at most {_DEEPEST} levels", path, problems)
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, Mapping):
        return _object(Mapping[str, Any], value, path, problems)
    if isinstance(value, list | tuple):
        items = value if len(value) <= LONGEST_LIST else [_wrong(value, f"a list of at most {LONGEST_LIST}", path, problems)]
        return [_plain(kind, child, f"{path}[{place}]", problems) for place, child in enumerate(items)]
    return _number(kind, value, path, problems)


_READERS: Mapping[Any, _Reader] = {
    Any: _plain,
    bool: _exactly("true or false (without quotes)"),
    int: _exactly("a whole number (without quotes)"),
    str: _exactly("a text (in quotes)"),
    float: _number,
    tuple: _list,
    Mapping: _object,
    Literal: _choice,
    UnionType: _one_of,
}
