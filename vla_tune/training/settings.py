"""What a run's settings may be, looked at before anything is loaded."""

import math
import os
from collections.abc import Mapping
from typing import Any

_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "gradient_accumulation": 1,
    "validate_every": 1,
    "save_every": 1,
    "keep_last": 1,
    "workers": 0,
}
_NORM = "max_gradient_norm"


def check_settings(settings: Mapping[str, Any], *, prefix: str = "training.") -> None:
    """The numbers that `train` takes are numbers, and large enough; each is named with `prefix`.

    Raises:
        ValueError: a setting is missing, unknown, of another type, or out of its range.
    """
    known = [*_LEAST, _NORM]
    if unknown := sorted(settings.keys() - set(known)):
        raise ValueError(f"{prefix}{unknown[0]} is no setting: there are {', '.join(sorted(known))}.")
    if missing := sorted(set(known) - settings.keys()):
        raise ValueError(f"{prefix}{missing[0]} is missing: give it a value.")
    for name, least in _LEAST.items():
        check_whole(f"{prefix}{name}", settings[name], least=least)
    check_number(f"{prefix}{_NORM}", settings[_NORM], most=math.inf)


def check_whole(name: str, value: Any, *, least: int) -> None:
    """A whole number, at least `least`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}.")


def check_number(name: str, value: Any, *, most: float) -> None:
    """A number above 0, at most `most`.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
        limit = "above 0" if math.isinf(most) else f"above 0, at most {most:g}"
        raise ValueError(f"{name}={value!r} must be a number {limit}.")


def check_alone() -> None:
    """No launcher started this process as one of several: it would wait for the others for ever.

    Raises:
        ValueError: one did.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count not in ("", "1"):
        raise ValueError(f"WORLD_SIZE={count}: one process trains on one device; start it without a launcher, or unset WORLD_SIZE.")
