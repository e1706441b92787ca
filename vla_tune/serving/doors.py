"""How many connections may be open, and which one gives way: who says nothing must not keep out who does."""

import asyncio
import logging
import resource
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection

_SHARE = 4
"""A listener takes at most one in so many of the files that the process may open; the others are for everything else."""
_ACCEPT = "socket.accept()"
"""How asyncio's complaint begins when no file can be opened."""


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
    """Lets a complaint about a connection that could not be accepted through once a second; asyncio makes hundreds.

    Args:
        clock: Seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _last: float = field(default=float("-inf"), init=False)

    def __call__(self, record: logging.LogRecord) -> bool:
        """Whether it is logged (a `logging.Filter`)."""
        if not record.getMessage().startswith(_ACCEPT):
            return True
        now = self.clock()
        if now - self._last < 1.0:
            return False
        self._last = now
        return True


@contextmanager
def seldom_complaining() -> Iterator[None]:
    """Filters asyncio's log so until the block ends."""
    logger, seldom = logging.getLogger("asyncio"), Seldom()
    logger.addFilter(seldom)
    try:
        yield
    finally:
        logger.removeFilter(seldom)


class Counted(ServerConnection):
    """A connection that has a place among the others, from its first byte to its last."""

    def __init__(self, doors: Doors, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doors = doors

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It takes its place; another may have to give way."""
        super().connection_made(transport)
        self._doors.enter(self.id, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free."""
        self._doors.leave(self.id)
        super().connection_lost(exc)
