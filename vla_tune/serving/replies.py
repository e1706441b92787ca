"""What a client takes for an answer; it believes its server nothing."""

from typing import Any

import numpy as np
from jaxtyping import Float

from vla_tune.serving import codec

SAID = 2000
"""Characters of what a server says that are repeated."""


class ServerError(Exception):
    """The server refused an observation, or failed on it; the message is its own."""


def content_of(message: str | bytes) -> dict[str, Any]:
    """What a server said.

    Raises:
        ServerError: a text, which is an error.
        MessageError: it cannot be read.
    """
    if isinstance(message, str):
        raise ServerError(message[:SAID])
    content = codec.decode(message)
    if not isinstance(content, dict):
        raise codec.MessageError(f"a message is a map, not a {type(content).__name__}.")
    return content


def chunk_of(actions: Any, shape: tuple[int, int]) -> Float[np.ndarray, "T A"]:
    """Actions that can be played, in memory of their own: what was decoded cannot be written.

    Raises:
        ServerError: they are something else.
    """
    if not isinstance(actions, np.ndarray) or actions.shape != shape or actions.dtype.kind != "f" or not np.isfinite(actions).all():
        found = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, np.ndarray) else type(actions).__name__
        raise ServerError(f"the server's actions are {found}, and not finite numbers {list(shape)}: look at its log.")
    return np.array(actions)


def timing_of(record: Any) -> dict[str, float]:
    """What the server says about its time, if it does."""
    return (
        {key: float(value) for key, value in record.items() if isinstance(value, int | float)} if isinstance(record, dict) else {}
    )
