"""What a client is told where something went wrong."""

import uuid
from typing import Any

_SENTENCE = 2000
"""Characters of an error; what it quotes may be longer."""
FAILED = "the policy failed on this observation; the server's log says why"


def error_record(sentence: str) -> dict[str, Any]:
    """What a client is told; the id is in the log too."""
    return {"type": "error", "id": uuid.uuid4().hex[:12], "message": sentence[:_SENTENCE]}


def without_frames(error: Exception) -> Exception:
    """The same error; one that is told in its own sentence forgets where it was raised.

    Those frames hold the whole message, and an answer waits for as long as its client reads none.
    """
    if isinstance(error, ValueError | FileNotFoundError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return error
