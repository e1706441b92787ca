"""Messages of numpy arrays as openpi writes them: msgpack, read strictly.

An array is a map with the keys `__ndarray__`, `data`, `dtype`, `shape`, which are bytes; a scalar one with `__npgeneric__`, `data`
and `dtype`. The public decoder takes any dtype and any shape, and one message with the dtype `|O` makes it follow pointers that the
sender chose. Here a message holds numbers, text, booleans, bytes, lists, maps with text as keys, and arrays of numbers whose bytes
are as many as their shape says.

Who reads holds up everybody else in its process, so a message is counted while it is built: millions of small things are refused
after the first few thousands.
"""

import json
from collections.abc import Callable, Mapping
from math import isfinite, prod
from typing import Any

import msgpack
import numpy as np

MAX_BYTES = 16 * 2**20
"""Of a message."""
MAX_DEPTH = 16
"""Of lists and maps inside each other."""
MAX_ITEMS = 256
"""Of a list or a map."""
MAX_OBJECTS = 20_000
"""Items of all lists and maps together; an observation has about fifty."""
MAX_DIGITS = 20
"""Of a whole number in JSON."""
MAX_TEXT = 2**20
"""Bytes of one text."""
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


def decode(message: bytes | bytearray | memoryview, *, most: int = MAX_OBJECTS) -> Any:
    """What `message` says, in at most so many parts; arrays are views of it and cannot be written.

    Raises:
        MessageError: it is too large, too deep or of too many parts, no msgpack, or an array or a key is not as it must be.
    """
    if len(message) > MAX_BYTES:
        raise MessageError(f"a message of {len(message):,} bytes is too large: at most {MAX_BYTES:,} are read.")
    limits = {"max_array_len": MAX_ITEMS, "max_map_len": MAX_ITEMS, "max_str_len": MAX_TEXT, "max_ext_len": 0}
    counted, record = _hooks(most)
    try:
        value = msgpack.unpackb(message, raw=False, list_hook=counted, object_pairs_hook=record, **limits)
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:  # TypeError: a map as a key
        raise MessageError(f"this is no message that is read here: {type(error).__name__} {error}"[:300]) from None
    _check_depth(value, MAX_DEPTH)
    return value


def from_json(text: str | bytes, *, hook: Callable[[dict[str, Any]], Any] = lambda record: record) -> Any:
    """What a JSON text of few parts says; `hook` reads each object.

    Raises:
        MessageError: it is no JSON, too deep, says a thing twice, or has more than `MAX_OBJECTS` parts, which is seen before any is
            built.
    """
    marks = (b"[", b"{", b",") if isinstance(text, bytes) else ("[", "{", ",")
    if sum(map(text.count, marks)) > MAX_OBJECTS:  # pyright: ignore[reportArgumentType]
        raise MessageError(f"a JSON text holds at most {MAX_OBJECTS:,} values; arrays are sent as bytes, not number by number.")
    try:
        return json.loads(
            text,
            object_pairs_hook=lambda pairs: hook(_without_repeats(pairs)),
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_constant,
        )
    except MessageError:
        raise
    except (ValueError, RecursionError) as error:
        raise MessageError(f"this is no JSON that is read here: {type(error).__name__} {error}"[:300]) from None


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MessageError(f"a whole number of {len(digits):,} digits: at most {MAX_DIGITS} are read.")
    return int(digits)


def _finite(digits: str) -> float:
    return number if isfinite(number := float(digits)) else _constant(digits[:MAX_DIGITS])


def _constant(name: str) -> Any:
    raise MessageError(f"{name} is no JSON: only finite numbers are read.")


def _hooks(most: int) -> tuple[Callable[[list[Any]], list[Any]], Callable[[list[tuple[Any, Any]]], Any]]:
    """What msgpack calls with each list and with each map that it has built, those inside first."""
    left = most

    def counted(items: list[Any]) -> list[Any]:
        nonlocal left
        left -= 1 + len(items)
        if left < 0:
            raise MessageError(f"a message has more than {most:,} parts; arrays are sent as bytes, not number by number.")
        return items

    return counted, lambda pairs: _read(_without_repeats(counted(pairs)))


def _read(record: dict[Any, Any]) -> Any:
    """A map, or the array that it stands for."""
    if _ARRAY in record:
        return array_of(record.get(b"data"), record.get(b"dtype"), record.get(b"shape"))
    if _SCALAR in record:
        return _scalar(record)
    for key in record:
        if not isinstance(key, str):
            raise MessageError(f"keys are text, not {type(key).__name__}.")
    return record


def _check_depth(value: Any, depth: int) -> None:
    """Refuse more than `depth` levels of lists and maps."""
    if not isinstance(value, dict | list):
        return
    if depth == 0:
        raise MessageError(f"the message is deeper than {MAX_DEPTH} levels.")
    for item in value.values() if isinstance(value, dict) else value:
        _check_depth(item, depth - 1)


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise MessageError("a map says the same key twice: which one holds cannot be told.")
    return record


def _plain(value: Any) -> Mapping[bytes, Any]:
    if isinstance(value, np.ndarray):
        _check_dtype(value.dtype.str)
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _check_dtype(value.dtype.str)
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} is no number, text, list, map or array")


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
        with np.errstate(over="raise"):
            return kind.type(data)
    except (ArithmeticError, ValueError):
        raise MessageError(f"{data} does not fit into {kind}.") from None


def _check_dtype(name: Any) -> np.dtype:
    if not isinstance(name, str) or name not in _DTYPES:
        raise MessageError(f"arrays of dtype {str(name)[:30]!r} are not sent: only of numbers and booleans.")
    return np.dtype(name)
