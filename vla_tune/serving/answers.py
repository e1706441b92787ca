"""What a client is told, and what is never sent to it."""

import uuid
from typing import Any

import numpy as np

from vla_tune.schema import Contract

_SENTENCE = 2000
"""Characters of an error; what it quotes may be longer."""
FAILED = "the policy failed on this observation; the server's log says why"


def error_record(sentence: str) -> dict[str, Any]:
    """What a client is told; the id is in the log too."""
    return {"type": "error", "id": uuid.uuid4().hex[:12], "message": sentence[:_SENTENCE]}


def check_chunk(actions: Any, contract: Contract) -> None:
    """What a policy gave is a chunk of its contract, of finite numbers.

    Raises:
        RuntimeError: it is something else; a client could not use it.
    """
    expected = (contract.horizon, contract.embodiment.action_dimension)
    if not isinstance(actions, np.ndarray) or actions.shape != expected or actions.dtype.kind != "f":
        found = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, np.ndarray) else type(actions).__name__
        raise RuntimeError(f"the policy's chunk is {found}, the contract says {list(expected)}.")
    if not np.isfinite(actions).all():
        raise RuntimeError("the policy's chunk holds NaN or infinity: it is not sent.")


def without_frames(error: Exception) -> Exception:
    """The same error; one that is told in its own sentence forgets where it was raised.

    Those frames hold the whole message, and an answer waits for as long as its client reads none.
    """
    if isinstance(error, ValueError | FileNotFoundError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return error
