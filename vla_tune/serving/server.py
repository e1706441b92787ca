"""A websocket server that openpi's clients know: metadata first, then one reply for each observation."""

import asyncio
import http
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vla_tune.schema import Contract, Observation
from vla_tune.serving import codec
from vla_tune.serving.answers import FAILED, check_chunk, error_record, without_frames
from vla_tune.serving.connection import Counted
from vla_tune.serving.doors import Doors, affordable, seldom_complaining
from vla_tune.serving.memory import keep_freed
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.protocol import (
    ADAPTER,
    ADD,
    ENDPOINT,
    REMOVE,
    REQUEST_ID,
    adapter_in,
    metadata_of,
    observation_in,
    request_id_in,
)
from vla_tune.serving.security import Security, stranger
from vla_tune.serving.turns import Question, Turns
from vla_tune.serving.worker import RefusedError, Reply, Worker

_log = logging.getLogger(__name__)
_CONNECTIONS = 256
"""That may be open at once."""
_BACKLOG = 32
"""Connections that are taken at once; each may cost a file before another gives way."""
_PARTS = 1000
"""Of a message; an observation has a dozen for each camera."""
_UNREAD = 1
"""Frames of a connection that have come and wait; each may have the size of a message."""
_ONCE = ("Host", "Origin", "Authorization")
"""Headers that decide; of two of them each reader takes another."""
_PENDING = 8
"""Requests of one connection that may be on their way; more would only be dropped as old."""


@runtime_checkable
class Adapters(Protocol):
    """Adds and removes what is served, while it is served; called in the policy's thread."""

    def add(self, name: str) -> None:
        """Make the adapter of this name available.

        Raises:
            ValueError: it is not among those that may be added, or cannot be.
            OSError: its files cannot be read.
        """
        ...

    def remove(self, name: str) -> None:
        """Take it away.

        Raises:
            ValueError: there is none of this name, or it is the last.
        """
        ...


@dataclass(frozen=True)
class FixedAdapters:
    """What is served stays as it is."""

    def add(self, name: str) -> None:
        """Refused."""
        raise ValueError("adapters cannot be added: the server was started without a folder to take them from (adapters=...).")

    def remove(self, name: str) -> None:
        """Refused."""
        raise ValueError("adapters cannot be removed: the server was started without a folder to take them from (adapters=...).")


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
    adapters: Adapters = FixedAdapters()
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
            async with serve(self._connection, host, port, max_size=codec.MAX_BYTES, **options) as server:
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

    async def _connection(self, connection: ServerConnection) -> None:
        """One client: observations are read while older ones are answered."""
        self.metrics.clients.inc()
        turns = Turns(_PENDING)
        sender = asyncio.create_task(self._send(connection, turns))
        try:
            await connection.send(codec.encode(metadata_of(self.contracts)))
            async for message in connection:
                self._doors.heard(connection.id)
                question = Question(time.monotonic())
                await turns.ask(question)
                try:
                    await self._begin(connection, message, question, turns)
                except Exception as error:
                    turns.answer(question, partial(_failed, without_frames(error)))
                    await asyncio.sleep(0)  # the others' turn, before the next one fails
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
            self.worker.forget(connection.id)
            self.metrics.clients.dec()

    async def _begin(self, connection: ServerConnection, message: str | bytes, question: Question, turns: Turns) -> None:
        """An observation goes to the policy at once; everything else waits for its turn."""
        content = _content(message)
        question.enveloped = ENDPOINT in content
        question.number = request_id_in(content)
        endpoint = content.get(ENDPOINT, "infer")
        if endpoint == "infer":
            name = adapter_in(content, list(self.contracts))
            contract = self.contracts[name]

            def done(outcome: Reply | Exception) -> None:
                came = without_frames(outcome) if isinstance(outcome, Exception) else outcome
                turns.answer(question, partial(self._actions, question, name, contract, came))

            files = any(isinstance(value, bytes) for value in content.values())  # a JPEG takes time, an array none
            seen = await asyncio.to_thread(observation_in, content, contract) if files else observation_in(content, contract)
            self.worker.submit(connection.id, seen, name, done)
        elif endpoint == "reset":
            turns.answer(question, _reset)
        elif endpoint in (ADD, REMOVE):
            turns.answer(question, partial(self._change, endpoint, content))
        else:
            raise codec.MessageError(f"endpoint {str(endpoint)[:40]!r}: there are infer, reset, {ADD} and {REMOVE}.")

    async def _send(self, connection: ServerConnection, turns: Turns) -> None:
        await self._send_until_failed(connection, turns)
        closing = asyncio.create_task(connection.close(1011, "see the message before"))
        try:
            while True:  # nobody hears the rest, but who reads the connection must see its end
                await turns.next()
        finally:
            await closing

    async def _send_until_failed(self, connection: ServerConnection, turns: Turns) -> None:
        previous: float | None = None
        while True:
            question = await turns.next()
            message, failed = await self._message(question, previous)
            try:
                await connection.send(message)
            except ConnectionClosed:
                return
            if failed and not question.enveloped:
                return
            previous = 1000 * (time.monotonic() - question.begun)
            question.served()

    async def _message(self, question: Question, previous: float | None) -> tuple[str | bytes, bool]:
        """What is sent, and whether it is an error; `previous` is how long the answer before took, in ms."""
        assert question.answer is not None
        try:
            answer = await question.answer()
            if previous is not None and "server_timing" in answer:
                answer["server_timing"]["prev_total_ms"] = previous
            return codec.encode(answer | _numbered(question)), False
        except (codec.MessageError, RefusedError, ValueError, FileNotFoundError) as error:
            self.metrics.rejected.labels(type(error).__name__).inc()
            answer = error_record(str(error))
        except Exception:  # what a policy raises is for the log, not for the network
            answer = error_record(FAILED)
            self.metrics.rejected.labels("failure").inc()
            _log.exception("request %s failed", answer["id"])
        plain = f"{answer['message']} ({answer['id']})"
        return (codec.encode(answer | _numbered(question)) if question.enveloped else plain), True

    async def _actions(self, question: Question, name: str, contract: Contract, outcome: Reply | Exception) -> dict[str, Any]:
        if isinstance(outcome, Exception):
            raise outcome
        check_chunk(outcome.actions, contract)
        question.served = partial(self.metrics.served, outcome, contract)
        total = 1000 * (time.monotonic() - question.begun)
        return {
            "actions": outcome.actions,
            "adapter": name,
            "policy_timing": {"infer_ms": 1000 * outcome.inference_seconds},
            "server_timing": {"infer_ms": total, "queue_ms": 1000 * outcome.waited_seconds, "batch": outcome.batch},
        }

    async def _change(self, endpoint: str, message: Mapping[str, Any]) -> dict[str, Any]:
        name = message.get(ADAPTER)
        if not isinstance(name, str):
            raise codec.MessageError(f"{endpoint} names no adapter: say which one as text under {ADAPTER!r}.")
        change = {ADD: self.adapters.add, REMOVE: self.adapters.remove}[endpoint]
        await self.worker.between(partial(change, name))
        _log.info("%s %s: served are %s", endpoint, name, ", ".join(self.contracts))
        return {"status": f"{endpoint} successful", "adapters": list(self.contracts)}


def _numbered(question: Question) -> dict[str, int]:
    return {} if question.number is None else {REQUEST_ID: question.number}


async def _reset() -> dict[str, Any]:
    return {"status": "reset successful"}


async def _failed(error: Exception) -> dict[str, Any]:
    raise error


def _content(message: str | bytes) -> Mapping[str, Any]:
    if isinstance(message, str):
        raise codec.MessageError("a text frame came: observations are binary msgpack messages.")
    content = codec.decode(message, most=_PARTS)
    if not isinstance(content, Mapping):
        raise codec.MessageError(f"a message is a map, not a {type(content).__name__}.")
    return content
