"""Values in nested dictionaries and attributes, by a path with dots; one that is not there is named beside those that are."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

_MOST_NAMED = 30


def in_mapping(value: Any, key: str, *, where: str) -> Any:
    """What lies at `key` (`agent.position`; an empty key is the whole); a name may itself contain dots.

    Raises:
        ValueError: it is not there.
    """
    if not key:
        return value
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        for end in (place for place, letter in enumerate(key) if letter == "."):
            if isinstance(value.get(key[:end]), Mapping):
                return in_mapping(value[key[:end]], key[end + 1 :], where=f"{where}.{key[:end]}")
    raise ValueError(f"{where} has no {key!r}; it has {_keys(value)}.")


def attribute(value: Any, path: str, *, where: str) -> Any:
    """The attribute at `path` (`sim.data.qpos`).

    Raises:
        ValueError: it is not there, or is one of Python's own (`__x__`).
    """
    for name in path.split("."):
        if name.startswith("__"):
            raise ValueError(f"{where}: {path!r} asks for {name!r}, which is Python's own; name an attribute of the environment.")
        if not hasattr(value, name):
            there = [other for other in dir(value) if not other.startswith("__")]
            raise ValueError(f"{where} has no {name!r} ({path}); it has {_some(there)}.")
        value = getattr(value, name)
    return value


def attribute_of(env: gymnasium.Env, path: str) -> Any:
    """The attribute at `path` of an environment, else of the innermost of its wrappers that has it; raises as `attribute`."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    name = path.partition(".")[0]
    having = [layer for layer in reversed(layers) if hasattr(layer, name)]
    return attribute(having[0] if having else layers[-1], path, where="the environment")


def part_of(value: Any, at: Sequence[int] | str | None, *, where: str) -> np.ndarray:
    """The numbers of `value` at places `at`: a list, in their order, or a slice as text (`0:3`); all where it is None.

    Raises:
        ValueError: a place is not there, or `at` is no slice.
    """
    array = np.asarray(value)
    if at is None:
        return array
    flat = np.atleast_1d(array)
    if isinstance(at, str):
        begin, end = slice_of(at, where=where)
        at = range(*slice(begin, end).indices(len(flat))) if end is None else range(begin or 0, end)
    if bad := [place for place in at if not 0 <= place < len(flat)]:
        raise ValueError(f"{where} has {len(flat)} numbers, at={_written(at)} asks for number {bad[0]}.")
    return flat[list(at)]


def places(of: Sequence[int] | str | int, dimension: int, *, where: str) -> list[int]:
    """The places that `of` names in an array of `dimension` numbers; raises as `part_of`."""
    of = [of] if isinstance(of, int) else of
    return part_of(np.arange(dimension), of, where=where).tolist()


def slice_of(text: str, *, where: str) -> tuple[int | None, int | None]:
    """`2:5` -> 2, 5.

    Raises:
        ValueError: it is no slice with numbers that are not negative.
    """
    begin, colon, end = text.partition(":")
    if not colon or not all(number == "" or number.isdecimal() for number in (begin, end)):
        raise ValueError(f"{where}: {text!r} is no slice; say begin:end, such as '0:3', or a list of places.")
    return (int(begin) if begin else None), (int(end) if end else None)


def _written(at: Sequence[int]) -> str:
    return f"{at.start}:{at.stop}" if isinstance(at, range) else str(list(at))


def _keys(value: Any) -> str:
    if not isinstance(value, Mapping):
        shape = f" of shape {list(np.shape(value))}" if isinstance(value, np.ndarray) else ""
        return f"no keys: it is {type(value).__name__}{shape}; key='' reads it whole"
    return _some(list(_paths(value)))


def _paths(value: Mapping[Any, Any]) -> list[str]:
    found = []
    for name, child in value.items():
        found += [f"{name}.{path}" for path in _paths(child)] if isinstance(child, Mapping) and child else [str(name)]
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(sorted(names)[:_MOST_NAMED]) or 'nothing'}{more}"
