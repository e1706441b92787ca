"""What a listener leaves for everything else: files that can be opened, and room in the log."""

import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_SHARE = 4
"""A listener takes at most one in so many of the files that the process may open; the others are for everything else."""
_COMPLAINTS = {
    "asyncio": "socket.accept()",  # no file can be opened
    "websockets.server": "opening handshake failed",
    "aiohttp.server": "Error handling request",  # no HTTP; what our own code raises is caught there
}
"""By the logger, how what anybody can cause begins."""


def affordable(most: int) -> int:
    """`most` connections, or as many as this process can open beside everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if files == resource.RLIM_INFINITY else max(1, min(most, files // _SHARE))


@dataclass(eq=False)
class Seldom:
    """Lets a complaint through once a second; whoever sends nonsense would fill the disk with its tracebacks.

    Args:
        begins: How the complaint does.
        clock: Seconds.
    """

    begins: str
    clock: Callable[[], float] = time.monotonic
    _last: float = field(default=float("-inf"), init=False)

    def __call__(self, record: logging.LogRecord) -> bool:
        """Whether it is logged (a `logging.Filter`)."""
        if not record.getMessage().startswith(self.begins):
            return True
        now = self.clock()
        if now - self._last < 1.0:
            return False
        self._last = now
        return True


@contextmanager
def seldom_complaining() -> Iterator[None]:
    """Filters the logs of what reads the network so until the block ends."""
    filters = {logging.getLogger(name): Seldom(begins) for name, begins in _COMPLAINTS.items()}
    for logger, seldom in filters.items():
        logger.addFilter(seldom)
    try:
        yield
    finally:
        for logger, seldom in filters.items():
            logger.removeFilter(seldom)
