"""What glibc does with the memory of messages."""

import ctypes
from contextlib import suppress

_TRIM, _MAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
_KEPT, _LARGE = 16 * 2**20, 4 * 2**20


def keep_freed() -> None:
    """Keeps up to 16 MiB of what was freed for the next message, where the C library is glibc.

    Without it, chance decides whether the memory of an observation lies at the end of the heap and is given back after each: then
    the system fills a hundred pages with zeros for each request, which takes half as long again as the rest.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM, _KEPT)
        mallopt(_MAP, _LARGE)
