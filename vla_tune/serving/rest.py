"""OpenVLA's `POST /act` beside the websocket, for clients that know nothing else: JSON with arrays as json_numpy writes them."""

import binascii
import json
import logging
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from aiohttp import web
from jaxtyping import Float

from vla_tune.schema import Contract
from vla_tune.serving import codec
from vla_tune.serving.protocol import PROMPT, STATE, adapter_in, image_key, observation_in
from vla_tune.serving.server import FAILED, PolicyServer, check_chunk, error_record
from vla_tune.serving.worker import RefusedError

_log = logging.getLogger(__name__)
_MAX_BYTES = codec.MAX_BYTES * 4 // 3 + 65536
"""Of a request: what the websocket takes, in base64."""
_MAX_ITEMS = 1000
"""Lists and objects of a request; a camera's picture is one."""
_OPEN = 64
"""Requests that may be read or answered at once."""
_SINGLE, _FULL = "image", "full_image"
"""The first camera, as OpenVLA's clients name it, and as OFT's do."""
_ADAPTER, _STATISTICS, _ENCODED = "adapter", "unnorm_key", "encoded"


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
        application = web.Application(client_max_size=_MAX_BYTES)
        application.router.add_post("/act", _Front(server, self.missing_state).act)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, self.port, ssl_context=server.security.context())
            await site.start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


@dataclass(eq=False)
class _Front:
    server: PolicyServer
    missing_state: MissingState
    _open: int = 0

    async def act(self, request: web.Request) -> web.Response:
        if not self.server.security.admits(request.headers.get("Authorization")):
            return self._refused("key", 401, "the header Authorization: Api-Key ... is missing or wrong")
        if request.content_type != "application/json":  # what a page in a browser cannot send without being asked about it
            return self._refused("type", 415, f"the content is {request.content_type[:80]!r}: send application/json.")
        if self._open >= _OPEN:
            return self._refused("busy", 503, f"{_OPEN} requests are open: ask again later.")
        self._open += 1
        try:
            return await self._answered(await request.read())
        finally:
            self._open -= 1

    async def _answered(self, body: bytes) -> web.Response:
        try:
            content = _decoded(body)
            encoded = _ENCODED in content
            if encoded:
                content = _decoded(content[_ENCODED])
            answer = json.dumps(await self._actions(content), default=_plain)
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
        if content.get(_STATISTICS, contract.statistics.dataset) != contract.statistics.dataset:
            given = str(content[_STATISTICS])[:80]
            raise codec.MessageError(f"unnorm_key {given!r}: this policy has the statistics of {contract.statistics.dataset!r}.")
        message = self._message({key: value for key, value in content.items() if key not in (_ADAPTER, _STATISTICS)}, contract)
        client = object()
        try:
            reply = await self.server.worker.reply(client, observation_in(message, contract), name)
        finally:
            self.server.worker.forget(client)  # who has hung up is not acted for
        check_chunk(reply.actions, contract)
        self.server.metrics.served(reply, contract)
        return reply.actions[0] if _SINGLE in content else list(reply.actions)

    def _message(self, content: Mapping[str, Any], contract: Contract) -> dict[str, Any]:
        """The same request as the websocket's clients write it; what is left over is refused there, by its name."""
        first, *others = contract.embodiment.cameras
        names = {_SINGLE: image_key(first.role), _FULL: image_key(first.role), "instruction": PROMPT, "state": STATE}
        names |= {f"{camera.role}_image": image_key(camera.role) for camera in others}
        message: dict[str, Any] = {}
        for key, value in content.items():
            if names.get(key, key) in message:
                raise codec.MessageError(f"{key[:40]!r} says again what another key says: a request holds each thing once.")
            message[names.get(key, key)] = value
        if STATE not in message:
            message[STATE] = self.missing_state.of(contract)
        return message


def _decoded(text: Any) -> Mapping[str, Any]:
    """A JSON object; that it holds few things is seen before it is read, for reading holds up everybody."""
    if not isinstance(text, str | bytes):
        raise codec.MessageError(f"a request is JSON text, not a {type(text).__name__}.")
    brackets = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(text.count(bracket) for bracket in brackets) > _MAX_ITEMS:  # pyright: ignore[reportArgumentType]
        raise codec.MessageError(f"a request holds at most {_MAX_ITEMS:,} lists and objects.")
    try:
        content = json.loads(text, object_hook=_array)
    except codec.MessageError:
        raise
    except (ValueError, RecursionError) as error:
        raise codec.MessageError(f"this is no JSON that is read here: {type(error).__name__} {error}"[:300]) from None
    if not isinstance(content, Mapping):
        raise codec.MessageError(f"a request is a JSON object, not a {type(content).__name__}.")
    return content


def _array(record: dict[str, Any]) -> Any:
    if "__numpy__" not in record:
        return record
    try:
        data = b64decode(record["__numpy__"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise codec.MessageError("the data of an array is base64.") from None
    return codec.array_of(data, record.get("dtype"), record.get("shape"))


def _plain(array: np.ndarray) -> dict[str, Any]:
    return {"__numpy__": b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": array.shape}
