"""Plain data between processes: numbers, text, bytes, lists, maps and arrays of numbers in msgpack; nothing is unpickled."""

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

_ARRAY = 1
_KINDS = "biuf"


def encode(value: Any) -> bytes:
    """The message of `value`.

    Raises:
        TypeError: something else is inside.
    """
    message = msgpack.packb(value, default=_plain)
    assert message is not None
    return message


def decode(message: bytes) -> Any:
    """What `message` says; arrays are of the reader's own and can be written."""
    return msgpack.unpackb(message, ext_hook=_array)


def sendable(told: Mapping[Any, Any]) -> dict[str, Any]:
    """What of `told` can cross: an environment may tell objects of its own."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        try:
            encode({str(name): value})
        except (TypeError, ValueError, OverflowError):
            continue
        found[str(name)] = value
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        return msgpack.ExtType(_ARRAY, encode([value.dtype.str, list(value.shape), value.tobytes()]))
    raise TypeError(f"{type(value).__name__} is no plain data: numbers, text, bytes, lists, maps and arrays of numbers are.")


def _array(kind: int, content: bytes) -> np.ndarray:
    if kind != _ARRAY:
        raise ValueError(f"a message holds something of kind {kind}, which is no array.")
    name, shape, content = msgpack.unpackb(content)
    dtype = np.dtype(name)
    if dtype.kind not in _KINDS:
        raise ValueError(f"a message holds an array of {dtype}, which are no numbers.")
    return np.frombuffer(content, dtype).reshape(shape).copy()
