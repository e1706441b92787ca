"""YAML from elsewhere, read as plain data: nothing in it is resolved, built or repeated."""

import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

_MOST_BYTES, _DEEPEST = 256 * 1024, 32
"""A run's configuration has a few kB, and its deepest value lies eight levels down."""
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):
    """Null, booleans, numbers and text, as OmegaConf writes them: dates stay text, `1e-4` is a number, a key comes once."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _BASE.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise ValueError(f"the key {twice[0]!r} comes twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """The mapping in `path`, of plain values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger or deeper than a configuration is, repeats a part by an alias, asks for a type or for an
            interpolation, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, a configuration at most {_MOST_BYTES:,}: it is not what a run wrote.")
    try:
        text = path.read_text(encoding="utf-8")
        _check_events(text)
        record = _Loader(text).get_single_data()
        _check_values(record)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not read ({' '.join(str(error).split())}): take the file that the run wrote again.") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}, not a configuration: take the file that the run wrote again.")
    return record


def _check_events(text: str) -> None:
    """Before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader=_BASE):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"it is more than {_DEEPEST} levels deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("it repeats a part by an alias")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"it asks for the type {tag}")


def _check_values(value: Any) -> None:
    """No text is left that another reader would resolve."""
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{value[:80]!r} is an interpolation; a run's configuration holds values")
    children = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _check_values(child)
