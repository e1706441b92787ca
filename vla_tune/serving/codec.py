"""Messages of numpy arrays as openpi writes them: msgpack, read strictly.

An array is a map with the keys `__ndarray__`, `data`, `dtype`, `shape`, which are bytes; a scalar one with `__npgeneric__`, `data`
and `dtype`. The public decoder takes any dtype and any shape, and one message with the dtype `|O` makes it follow pointers that the
sender chose. Here a message holds numbers, text, booleans, bytes, lists, maps with text as keys, and arrays of numbers whose bytes
are as many as their shape says.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import msgpack
import numpy as np

MAX_BYTES = 16 * 2**20
"""Of a message."""
MAX_DEPTH = 16
"""Of lists and maps inside each other."""
MAX_ITEMS = 100_000
"""Of a list or a map."""
MAX_DIMENSIONS = 8
"""Of an array."""
_DTYPES = frozenset(
    ["|b1", "|u1", "|i1", *(f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8))]
    + [f"{order}f{size}" for order in "<>" for size in (2, 4, 8)]
)
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


class MessageError(ValueError):
    """A message that is refused; its text may be sent back."""


def encode(value: Any) -> bytes:
    """The message of `value`: None, numbers, text, bytes, lists, maps, and numpy arrays and scalars of numbers.

    Raises:
        MessageError: something else is inside, or the message would be too large to be read.
    """
    try:
        message: bytes = msgpack.packb(value, default=_plain)  # pyright: ignore[reportAssignmentType]
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"this cannot be sent: {error}") from None
    if len(message) > MAX_BYTES:
        raise MessageError(f"a message of {len(message):,} bytes is too large: at most {MAX_BYTES:,} are read.")
    return message


def decode(message: bytes | bytearray | memoryview) -> Any:
    """What `message` says; arrays are views of it and cannot be written.

    Raises:
        MessageError: it is too large or too deep, no msgpack, or an array or a key is not as it must be.
    """
    if len(message) > MAX_BYTES:
        raise MessageError(f"a message of {len(message):,} bytes is too large: at most {MAX_BYTES:,} are read.")
    limits = {"max_array_len": MAX_ITEMS, "max_map_len": MAX_ITEMS, "max_ext_len": 0}
    try:
        value = msgpack.unpackb(message, strict_map_key=False, raw=False, **limits)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:  # TypeError: a map as a key
        raise MessageError(f"this is no message that is read here: {type(error).__name__} {error}"[:300]) from None
    return _checked(value, MAX_DEPTH)


def _plain(value: Any) -> Mapping[bytes, Any]:
    if isinstance(value, np.ndarray):
        _check_dtype(value.dtype.str)
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _check_dtype(value.dtype.str)
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} is no number, text, list, map or array")


def _checked(value: Any, depth: int) -> Any:
    """With arrays in the place of their maps; `depth` more levels are allowed."""
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise MessageError(f"the message is deeper than {MAX_DEPTH} levels.")
    if isinstance(value, list):
        return [_checked(item, depth - 1) for item in value]
    if _ARRAY in value:
        return array_of(value.get(b"data"), value.get(b"dtype"), value.get(b"shape"))
    if _SCALAR in value:
        return _scalar(value)
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise MessageError(f"keys are text, not {type(wrong[0]).__name__}.")
    return {key: _checked(item, depth - 1) for key, item in value.items()}


def array_of(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    """The array of these bytes; it cannot be written.

    Raises:
        MessageError: they are not the bytes of an array of numbers of this type and shape.
    """
    kind = _check_dtype(dtype)
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise MessageError(f"an array has bytes as data and a shape of at most {MAX_DIMENSIONS} numbers.")
    if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        raise MessageError(f"an array of shape {str(shape)[:100]}: its sizes are whole numbers from 0 to {MAX_BYTES:,}.")
    needed = prod(shape) * kind.itemsize
    if needed != len(data):
        raise MessageError(f"an array of shape {shape} and dtype {dtype} takes {needed:,} bytes, not {len(data):,}.")
    return np.frombuffer(data, dtype=kind).reshape(shape)


def _scalar(record: Mapping[Any, Any]) -> np.generic:
    data, kind = record.get(b"data"), _check_dtype(record.get(b"dtype"))
    if not isinstance(data, bool | int | float):
        raise MessageError(f"a scalar is a number, not {type(data).__name__}.")
    try:
        return kind.type(data)
    except (OverflowError, ValueError):
        raise MessageError(f"{data} does not fit into {kind}.") from None


def _check_dtype(name: Any) -> np.dtype:
    if not isinstance(name, str) or name not in _DTYPES:
        raise MessageError(f"arrays of dtype {str(name)[:30]!r} are not sent: only of numbers and booleans.")
    return np.dtype(name)
