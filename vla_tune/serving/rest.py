"""OpenVLA's `POST /act` beside the websocket, for clients that know nothing else: JSON with arrays as json_numpy writes them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from aiohttp import web
from jaxtyping import Float

from vla_tune.schema import Contract
from vla_tune.serving import codec
from vla_tune.serving.answers import FAILED, error_record
from vla_tune.serving.codec import STATE, adapter_in, observation_in
from vla_tune.serving.connection import Doors
from vla_tune.serving.doors import affordable
from vla_tune.serving.limits import MAX_BYTES
from vla_tune.serving.openvla_json import ENCODED, SINGLE, STATISTICS, decoded, message_of, written
from vla_tune.serving.security import stranger
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import RefusedError, check_chunk

_log = logging.getLogger(__name__)
_MAX_BYTES = MAX_BYTES * 4 // 3 + 65536
"""Of a request: what the websocket takes, in base64."""
_OPEN = 64
"""Requests that may be read or answered at once, and connections that may be open without one."""
_BACKLOG = 16
"""Connections that are taken at once; each may cost a file before another gives way."""
_AT_ONCE = 16 * 1024
"""Bytes that are read before everybody else has a turn; thousands of requests or pieces of a body may be in them."""
_SILENT = 10.0
"""Seconds for a request's head, from the connection's beginning or the answer before, and again for its body."""


@runtime_checkable
class MissingState(Protocol):
    """What stands for the robot's state where a request holds none."""

    def of(self, contract: Contract) -> Float[np.ndarray, " S"]:
        """In robot units.

        Raises:
            MessageError: nothing does.
        """
        ...


@dataclass(frozen=True)
class Refused:
    """A request without the robot's state is a mistake."""

    def of(self, contract: Contract) -> Float[np.ndarray, " S"]:
        """Nothing."""
        raise codec.MessageError(
            f"state is missing: {contract.embodiment.state_dimension} numbers in robot units. A policy that does not look at it "
            "can be served with rest=without_state."
        )


@dataclass(frozen=True)
class MeanOfTraining:
    """For policies that do not look at the state, as OpenVLA's own: its clients send none."""

    def of(self, contract: Contract) -> Float[np.ndarray, " S"]:
        """The mean of the training data."""
        return np.array(contract.statistics.state.mean, np.float32)


@dataclass(frozen=True)
class Rest:
    """A second front of a server, with the same policies, keys and counters.

    A request holds `image` (OpenVLA) or `full_image` and `<role>_image` for further cameras (OFT), `instruction` and `state`;
    `unnorm_key`, if it is there, must name the statistics that the policy was trained with. The reply to `image` is one action
    [A], that to `full_image` a list of T. Unlike the original's, an error is not sent as a success.

    Args:
        port: 0 takes a free one.
        missing_state: What stands for a state that is not sent.
    """

    port: int
    missing_state: MissingState = Refused()

    @asynccontextmanager
    async def serving(self, server: PolicyServer, host: str) -> AsyncIterator[int]:
        """Listens until the block ends; gives the port.

        Raises:
            ValueError: the server's security does not protect this address.
            OSError: the address is taken.
        """
        server.security.check(host)
        listener = _Listener(_Front(server, self.missing_state))
        context = server.security.context()
        given: dict[str, Any] = {"backlog": _BACKLOG, "ssl": context} | ({"ssl_handshake_timeout": _SILENT} if context else {})
        listening = await asyncio.get_running_loop().create_server(listener, host, self.port, **given)
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()
            listener.pre_shutdown()
            await listener.shutdown(1.0)


class _Listener(web.Server):
    """aiohttp's, which closes a connection that is silent too long, and gives way where too many are open."""

    def __init__(self, front: "_Front") -> None:
        options: dict[str, Any] = {"keepalive_timeout": _SILENT, "auto_decompress": False, "access_log": None}
        super().__init__(front.answer, request_factory=self._request, handler_cancellation=True, **options)
        self._front = front

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        setattr(transport, "max_size", _AT_ONCE)  # noqa: B010 (asyncio's, of the sockets that it reads itself)
        self._front.doors.enter(handler, transport.abort)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        self._front.doors.leave(handler)
        super().connection_lost(handler, exc)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop, client_max_size=_MAX_BYTES)


@dataclass(eq=False)
class _Front:
    server: PolicyServer
    missing_state: MissingState
    doors: Doors = field(default_factory=lambda: Doors(affordable(_OPEN)))
    _open: int = 0
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Who decodes; between two of them everybody else has a turn."""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """What a request gets, its connection meanwhile out of reach of others that need its place."""
        if (refused := self._refusal(request)) is not None:
            refused.force_close()  # what it sends further is not read
            return refused
        protocol, transport = request.protocol, request.transport
        self.doors.leave(protocol)
        self._open += 1
        try:
            async with asyncio.timeout(_SILENT):
                body = await request.read()
            return await self._answered(body)
        except TimeoutError:
            return self._refused("slow", 408, f"the request was not complete after {_SILENT:g} s.")
        finally:
            self._open -= 1
            if transport is not None and not transport.is_closing():
                self.doors.enter(protocol, transport.abort)

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        """What can be said before the body is read."""
        headers, security = request.headers, self.server.security
        if (why := stranger(security, host=headers.get("Host"), origin=headers.get("Origin"))) is not None:
            return self._refused("stranger", 403, why)
        if not security.admits(headers.get("Authorization")):
            return self._refused("key", 401, "the header Authorization: Api-Key ... is missing or wrong")
        if request.path != "/act" or request.method != "POST":
            return self._refused("path", 404, f"{request.method[:10]} {request.path[:80]!r}: there is POST /act.")
        if request.content_type != "application/json":  # what a page in a browser cannot send without being asked about it
            return self._refused("type", 415, f"the content is {request.content_type[:80]!r}: send application/json.")
        if "Content-Encoding" in headers:  # a few bytes would become many
            return self._refused("type", 415, f"the content is encoded as {headers['Content-Encoding'][:80]!r}: send it as it is.")
        if self._open >= _OPEN:
            return self._refused("busy", 503, f"{_OPEN} requests are open: ask again later.")
        return None

    async def _decoded(self, text: Any) -> Mapping[str, Any]:
        async with self._one:
            content = decoded(text)
            await asyncio.sleep(0)
            return content

    async def _answered(self, body: bytes) -> web.Response:
        try:
            content = await self._decoded(body)
            encoded = ENCODED in content
            if encoded:
                content = await self._decoded(content[ENCODED])
            answer = json.dumps(await self._actions(content), default=written)
            return web.Response(text=json.dumps(answer) if encoded else answer, content_type="application/json")
        except RefusedError as error:
            return self._refused("RefusedError", 503, str(error))
        except (codec.MessageError, ValueError) as error:
            return self._refused(type(error).__name__, 422, str(error))
        except Exception:  # what a policy raises is for the log, not for the network
            answer = self._refused("failure", 500, FAILED)
            _log.exception("request failed: %s", answer.text)
            return answer

    def _refused(self, reason: str, status: int, sentence: str) -> web.Response:
        self.server.metrics.rejected.labels(reason).inc()
        return web.Response(status=status, text=json.dumps(error_record(sentence)), content_type="application/json")

    async def _actions(self, content: Mapping[str, Any]) -> Any:
        name = adapter_in(content, list(self.server.contracts))
        contract = self.server.contracts[name]
        if content.get(STATISTICS, contract.statistics.dataset) != contract.statistics.dataset:
            given = str(content[STATISTICS])[:80]
            raise codec.MessageError(f"unnorm_key {given!r}: this policy has the statistics of {contract.statistics.dataset!r}.")
        message = message_of(content, contract)
        if STATE not in message and contract.embodiment.state:
            message[STATE] = self.missing_state.of(contract)
        client = object()
        try:
            reply = await self.server.worker.reply(client, observation_in(message, contract), name)
        finally:
            self.server.worker.forget(client)  # who has hung up is not acted for
        check_chunk(reply.actions, contract)
        self.server.metrics.served(reply, contract)
        return reply.actions[0] if SINGLE in content else list(reply.actions)
