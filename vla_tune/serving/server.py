"""A websocket server that openpi's clients know: metadata first, then one reply for each observation."""

import http
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from vla_tune.schema import Contract, Observation
from vla_tune.serving.adapters import Adapters, FixedAdapters
from vla_tune.serving.connection import Conversation, Counted, Doors
from vla_tune.serving.doors import affordable, seldom_complaining
from vla_tune.serving.limits import MAX_BYTES
from vla_tune.serving.memory import keep_freed
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Security, stranger
from vla_tune.serving.worker import Worker

_CONNECTIONS = 256
"""That may be open at once."""
_BACKLOG = 32
"""Connections that are taken at once; each may cost a file before another gives way."""
_UNREAD = 1
"""Frames of a connection that have come and wait; each may have the size of a message."""
_ONCE = ("Host", "Origin", "Authorization")
"""Headers that decide; of two of them each reader takes another."""


@dataclass(eq=False)
class PolicyServer:
    """Serves a worker's policy.

    Args:
        worker: Runs the policy.
        contracts: By the name of the adapter, as they are now; the first is the default.
        security: Who is let in.
        metrics: What is counted.
        adapters: Changes what is served.
    """

    worker: Worker
    contracts: Mapping[str, Contract]
    security: Security
    metrics: Metrics
    adapters: Adapters = field(default_factory=FixedAdapters)
    ready: bool = field(default=False, init=False)
    """Whether a first inference went well."""

    _doors: Doors = field(default_factory=lambda: Doors(affordable(_CONNECTIONS)), init=False)

    def __post_init__(self) -> None:
        self.metrics.waiting.set_function(lambda: self.worker.waiting)

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[Server]:
        """Listens until the block ends; port 0 takes a free one.

        Raises:
            ValueError: `security` does not protect this address.
            OSError: the address is taken.
        """
        self.security.check(host)
        keep_freed()
        options: dict[str, Any] = {"ssl": self.security.context(), "process_request": self._http, "compression": None}
        options |= {"create_connection": partial(Counted, self._doors), "backlog": _BACKLOG, "origins": [None]}
        options |= {"max_queue": _UNREAD}
        try:
            async with serve(self._conversation, host, port, max_size=MAX_BYTES, **options) as server:
                with seldom_complaining():
                    yield server
        finally:
            await self.worker.close()

    async def warm_up(self, observation: Callable[[Contract], Observation]) -> None:
        """One inference of every adapter; then the server says that it is ready.

        Raises:
            Exception: whatever the policy raises.
        """
        for name, contract in list(self.contracts.items()):
            await self.worker.reply(f"warm-up of {name}", observation(contract), name)
        self.ready = True

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Plain requests; None goes on to a websocket."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz":
            status = http.HTTPStatus.OK if self.ready else http.HTTPStatus.SERVICE_UNAVAILABLE
            return connection.respond(status, "ready\n" if self.ready else "warming up\n")
        if twice := [name for name in _ONCE if len(request.headers.get_all(name)) > 1]:
            self.metrics.rejected.labels("stranger").inc()
            return connection.respond(http.HTTPStatus.BAD_REQUEST, f"the header {twice[0]} came twice.\n")
        refused = stranger(self.security, host=request.headers.get("Host"), origin=request.headers.get("Origin"))
        if refused is not None:
            self.metrics.rejected.labels("stranger").inc()
            return connection.respond(http.HTTPStatus.FORBIDDEN, refused + "\n")
        if not self.security.admits(request.headers.get("Authorization")):
            self.metrics.rejected.labels("key").inc()
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the header Authorization: Api-Key ... is missing or wrong\n")
        if path == "/metrics":
            kind, text = self.metrics.exposition()
            headers = Headers({"Content-Type": kind, "Content-Length": str(len(text)), "Connection": "close"})
            return Response(http.HTTPStatus.OK, "OK", headers, text)
        return None

    def _conversation(self, connection: ServerConnection) -> Awaitable[None]:
        assert isinstance(connection, Counted)
        return Conversation(connection, self.worker, self.contracts, self.adapters, self.metrics).hold()
