"""A request as OpenVLA's clients write it, JSON with arrays as json_numpy does, and as the websocket's clients do."""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_tune.schema import Contract
from vla_tune.serving import codec
from vla_tune.serving.codec import PROMPT, STATE, image_key
from vla_tune.serving.strict_json import from_json

SINGLE, FULL = "image", "full_image"
"""The first camera, as OpenVLA's clients name it, and as OFT's do."""
ADAPTER, STATISTICS, ENCODED = "adapter", "unnorm_key", "encoded"
_WRITTEN = '{"__numpy__": "<base64 of its bytes>", "dtype": "|u1", "shape": [height, width, 3]}'
_BRACKETS = 1000
"""Lists and objects of a request; a camera's picture is one."""


def decoded(text: Any) -> Mapping[str, Any]:
    """What a request's JSON object holds; that it is of few parts is seen before it is read.

    Raises:
        MessageError: it is no such text.
    """
    if not isinstance(text, str | bytes):
        raise codec.MessageError(f"a request is JSON text, not a {type(text).__name__}.")
    brackets = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, brackets)) > _BRACKETS:  # pyright: ignore[reportArgumentType]
        raise codec.MessageError(
            f"a request holds at most {_BRACKETS:,} lists and objects: write pictures as json_numpy does, {_WRITTEN}."
        )
    content = from_json(text, hook=_array)
    if not isinstance(content, Mapping):
        raise codec.MessageError(f"a request is a JSON object, not a {type(content).__name__}.")
    return content


def message_of(content: Mapping[str, Any], contract: Contract) -> dict[str, Any]:
    """The same request as the websocket's clients write it; what is left over is refused there, by its name.

    Raises:
        MessageError: it says a thing twice, or a picture number by number.
    """
    first, *others = contract.embodiment.cameras
    pictures = {SINGLE: image_key(first.role), FULL: image_key(first.role)}
    pictures |= {f"{camera.role}_image": image_key(camera.role) for camera in others}
    names = pictures | {"instruction": PROMPT, "state": STATE}
    message: dict[str, Any] = {}
    for key, value in content.items():
        if key in (ADAPTER, STATISTICS):
            continue
        if names.get(key, key) in message:
            raise codec.MessageError(f"{key[:40]!r} says again what another key says: a request holds each thing once.")
        if key in pictures and isinstance(value, list):
            raise codec.MessageError(f"{key} is a list: write pictures as json_numpy does, {_WRITTEN}.")
        message[names.get(key, key)] = _numbers(value) if key == "state" else value
    return message


def written(array: np.ndarray) -> dict[str, Any]:
    """An array as json_numpy writes it."""
    return {"__numpy__": b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": array.shape}


def _numbers(value: Any) -> Any:
    """A list of numbers is a state as well as an array of them is."""
    plain = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    return np.array(value, np.float64) if plain else value


def _array(record: dict[str, Any]) -> Any:
    if "__numpy__" not in record:
        return record
    try:
        data = b64decode(record["__numpy__"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise codec.MessageError("the data of an array is base64.") from None
    return codec.array_of(data, record.get("dtype"), record.get("shape"))
