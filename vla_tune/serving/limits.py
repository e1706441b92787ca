"""What a message may hold, and the error of one that is refused."""

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
MAX_PROMPT = 2048
"""Bytes of an instruction. A policy takes memory with the square of its length, and none was trained on a page of text."""


class MessageError(ValueError):
    """A message that is refused; its text may be sent back."""
