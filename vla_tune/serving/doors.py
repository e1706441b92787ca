"""How many connections may be open, and which one gives way: who says nothing must not keep out who does."""

import logging
import resource
import time
from collections.abc import Callable, Hashable, Iterator
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


@dataclass(eq=False)
class Doors:
    """The connections of one listener that nobody is answering.

    Args:
        most: Open ones; a further one takes the place of the one that has said nothing for longest.
    """

    most: int
    _silent: dict[Hashable, Callable[[], object]] = field(default_factory=dict, init=False)

    def enter(self, connection: Hashable, close: Callable[[], object]) -> None:
        """A connection waits for its first or next message; `close` ends it if its place is needed."""
        self._silent.pop(connection, None)
        while len(self._silent) >= self.most:
            oldest = next(iter(self._silent))
            self._silent.pop(oldest)()
        self._silent[connection] = close

    def heard(self, connection: Hashable) -> None:
        """A whole message came of it; a byte now and then is silence."""
        if connection in self._silent:
            self._silent[connection] = self._silent.pop(connection)

    def leave(self, connection: Hashable) -> None:
        """It has ended, or is being answered."""
        self._silent.pop(connection, None)


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
