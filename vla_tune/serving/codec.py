"""Observations and actions as openpi's messages: numpy arrays in msgpack, read strictly, under names that follow from the contract.

An array is a map with the keys `__ndarray__`, `data`, `dtype`, `shape`, which are bytes; a scalar one with `__npgeneric__`, `data`
and `dtype`. The public decoder takes any dtype and any shape, and one message with the dtype `|O` makes it follow pointers that the
sender chose. Here a message holds numbers, text, booleans, bytes, lists, maps with text as keys, and arrays of numbers whose bytes
are as many as their shape says.

Who reads holds up everybody else in its process, so a message is counted while it is built: millions of small things are refused
after the first few thousands.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, prod
from typing import Any

import msgpack
import numpy as np

from vla_tune.schema import Camera, Contract, Observation
from vla_tune.serving.jpeg import from_jpeg, to_jpeg
from vla_tune.serving.limits import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIMENSIONS,
    MAX_ITEMS,
    MAX_OBJECTS,
    MAX_PROMPT,
    MAX_TEXT,
    MessageError,
)

PROMPT, STATE, ADAPTER, ENDPOINT = "prompt", "observation/state", "adapter", "endpoint"
REQUEST_ID = "request_id"
"""A number that a client may give a question, if the server announces that it repeats it in the answer."""
_LARGER = 16
"""Times the pixels of the contract's camera that a JPEG may have; small files can hold very large pictures."""
_SLIM = 8
"""Times its shorter side that a picture's longer one may be: to crop or to pad a line of a million pixels takes gigabytes."""
_BESIDE = frozenset({ADAPTER, ENDPOINT, REQUEST_ID, "session_id"})
"""What a request may hold beside an observation."""
ADD, REMOVE = "add_adapter", "remove_adapter"
_DTYPES = frozenset(
    ["|b1", "|u1", "|i1", *(f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8))]
    + [f"{order}f{size}" for order in "<>" for size in (2, 4, 8)]
)
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


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


def _hooks(most: int) -> tuple[Callable[[list[Any]], list[Any]], Callable[[list[tuple[Any, Any]]], Any]]:
    """What msgpack calls with each list and with each map that it has built, those inside first."""
    left = most

    def counted(items: list[Any]) -> list[Any]:
        nonlocal left
        left -= 1 + len(items)
        if left < 0:
            raise MessageError(f"a message has more than {most:,} parts; arrays are sent as bytes, not number by number.")
        return items

    return counted, lambda pairs: _read(without_repeats(counted(pairs)))


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


def without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map.

    Raises:
        MessageError: a key comes twice.
    """
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


def image_key(role: str) -> str:
    """Of a camera's picture in a request."""
    return f"observation/{role}"


def request_of(observation: Observation, *, adapter: str | None = None, jpeg_quality: int | None = None) -> dict[str, Any]:
    """The message that asks for actions, with a state if there is one; with a `jpeg_quality`, its pictures are JPEG files."""
    images: dict[str, Any] = {image_key(role): np.ascontiguousarray(image) for role, image in observation.images.items()}
    if jpeg_quality is not None:
        images = {key: to_jpeg(image, jpeg_quality) for key, image in images.items()}
    named = {} if adapter is None else {ADAPTER: adapter}
    state = np.asarray(observation.state)
    return images | ({STATE: state} if state.size else {}) | {PROMPT: observation.instruction} | named


def observation_in(message: Mapping[str, Any], contract: Contract) -> Observation:
    """What a request shows.

    Raises:
        MessageError: something is missing, left over, or of another kind; it is named with what is expected.
    """
    body = contract.embodiment
    keys = {image_key(camera.role): camera for camera in body.cameras}
    expected = {*keys, *([STATE] if body.state else []), PROMPT}
    given = message.keys() - _BESIDE
    if given != expected:
        missing, unknown = sorted(expected - given), sorted(str(key)[:40] for key in given - expected)[:5]
        raise MessageError(f"an observation holds {sorted(expected)}: missing {missing}, unknown {unknown}.")
    images = {camera.role: _image(key, _unpacked(key, message[key], camera, contract)) for key, camera in keys.items()}
    state = _state(message[STATE], body.state_dimension) if body.state else np.zeros(0, np.float32)
    return Observation(images=images, state=state, instruction=_text(message[PROMPT]))


def _unpacked(key: str, value: Any, camera: Camera, contract: Contract) -> Any:
    if not isinstance(value, bytes):
        return value
    if contract.jpeg_quality is None:
        raise MessageError(f"{key} is a file, pictures are arrays here: start the server with jpeg_quality=... to allow JPEG.")
    return from_jpeg(value, largest=_LARGER * camera.height * camera.width)


def _image(key: str, value: Any) -> np.ndarray:
    if not (isinstance(value, np.ndarray) and value.dtype.str == "|u1" and value.ndim == 3 and value.shape[2] == 3 and value.size):
        raise MessageError(f"{key} is {_kind(value)}: an image is uint8 [height width 3], RGB.")
    height, width = value.shape[:2]
    if max(height, width) > _SLIM * min(height, width):
        raise MessageError(f"{key} is {height} x {width}: no side of a picture is more than {_SLIM} times the other.")
    return value


def _state(value: Any, dimension: int) -> np.ndarray:
    if not (isinstance(value, np.ndarray) and value.shape == (dimension,) and value.dtype.kind in "fiu"):
        raise MessageError(f"{STATE} is {_kind(value)}: the state is {dimension} numbers in robot units.")
    with np.errstate(over="ignore"):  # it is infinite then, which is said
        state = value.astype(np.float32)
    if not all(map(isfinite, map(float, state))):  # a few numbers, for which this is a fifth of numpy's time
        raise MessageError(f"{STATE} holds NaN or infinity: {state.tolist()}. Check the sensor.")
    return state


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MessageError(f"{PROMPT} is {_kind(value)}: it is the instruction, as text that is not empty.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise MessageError(f"{PROMPT} holds half a character (a surrogate): send it as UTF-8.") from None
    if size > MAX_PROMPT:
        raise MessageError(f"{PROMPT} has {size:,} bytes, an instruction at most {MAX_PROMPT:,}: say it in a sentence.")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    short = value[:40] if isinstance(value, str | bytes) else value
    return f"{type(value).__name__} {str(short)!r}" if isinstance(value, str | bytes | int | float) else type(value).__name__


def request_id_in(message: Mapping[str, Any]) -> int | None:
    """The number that a client gave its question; None if it gave none.

    Raises:
        MessageError: it is no number.
    """
    number = message.get(REQUEST_ID)
    if number is not None and type(number) is not int:
        raise MessageError(f"{REQUEST_ID} is {_kind(number)}: it is a whole number.")
    return number


def adapter_in(message: Mapping[str, Any], known: Sequence[str]) -> str:
    """The adapter that a request names; the first one if it names none.

    Raises:
        MessageError: there is none of this name.
    """
    name = message.get(ADAPTER, known[0])
    if not isinstance(name, str) or name not in known:
        raise MessageError(f"adapter {str(name)[:80]!r}: loaded are {', '.join(known)}.")
    return name
