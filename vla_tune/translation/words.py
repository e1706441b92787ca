"""Objects in words that differ where the objects do, the same in every process."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)
_OBJECT = re.compile(r"(?<= object) at 0x([0-9a-f]+)>", re.IGNORECASE)
"""The end of what Python says of an object whose class has no `__repr__`."""


def in_words(made: Any) -> str:
    """An object with its fields, without addresses; where its class, or that of one in it, says nothing, with its attributes."""
    return _spelled(made, ())


def in_words_without_attributes(made: Any) -> str:
    """The same, but of objects whose class says nothing the class alone: so they were written once."""
    return _ADDRESS.sub("", repr(made))


def _spelled(made: Any, above: tuple[int, ...]) -> str:
    def attributes(found: re.Match[str]) -> str:
        place = int(found.group(1), 16)
        one = next((one for one in _within(made, set()) if id(one) == place), None)
        if place in above or not hasattr(one, "__dict__"):
            return ">"
        told = [f", {name}={_spelled(value, (*above, place))}" for name, value in vars(one).items()]
        return "".join(told) + ">"

    return _ADDRESS.sub("", _OBJECT.sub(attributes, repr(made)))


def _within(made: Any, seen: set[int]) -> Iterator[Any]:
    """It, and what it has, and so on."""
    if id(made) in seen or isinstance(made, type | ModuleType | str | bytes):
        return
    seen.add(id(made))
    yield made
    for child in _children(made):
        yield from _within(child, seen)


def _children(made: Any) -> Iterator[Any]:
    if isinstance(made, partial):
        yield from (made.func, *made.args, *made.keywords.values())
    elif isinstance(made, Mapping):
        yield from made.values()
    elif isinstance(made, list | tuple | set | frozenset):
        yield from made
    elif isinstance(made, MethodType):
        yield made.__self__
    elif hasattr(made, "__dict__") and not isinstance(made, FunctionType):
        yield from vars(made).values()
