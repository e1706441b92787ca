"""JSON of few parts, read strictly."""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

from vla_tune.serving.codec import without_repeats
from vla_tune.serving.limits import MAX_DIGITS, MAX_OBJECTS, MessageError


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
            object_pairs_hook=lambda pairs: hook(without_repeats(pairs)),
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
