"""One client's connection: its place among the others, how much it may send at once, and an answer to each question, in order."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, ProtocolError
from websockets.frames import Frame, Opcode

from vla_tune.schema import Contract
from vla_tune.serving.adapters import Adapters, changed
from vla_tune.serving.answers import FAILED, error_record, without_frames
from vla_tune.serving.codec import ADD, ENDPOINT, REMOVE, REQUEST_ID, adapter_in, decode, encode, observation_in, request_id_in
from vla_tune.serving.limits import MessageError
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.protocol import metadata_of
from vla_tune.serving.worker import RefusedError, Reply, Worker, check_chunk

_log = logging.getLogger(__name__)
_FRAMES = 128
"""In one piece of what came; a piece has at most 256 KiB, and tens of thousands of pings fit into it."""
_PIECES = 2048
"""Of one message; each takes memory, an empty one too, and nothing else ends a message that goes on for ever."""
_UNREAD = 2**20
"""Bytes that wait to be sent: pongs do not wait for who reads none."""
_PARTS = 1000
"""Of a message; an observation has a dozen for each camera."""
_PENDING = 8
"""Requests of one connection that may be on their way; more would only be dropped as old."""

type Answer = Callable[[], Awaitable[dict[str, Any]]]
"""Gives the message to send, or raises why there is none."""


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


class Counted(ServerConnection):
    """A connection that takes one of the places at `doors`, from its first byte to its last."""

    def __init__(self, doors: Doors, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doors, self._frames, self._pieces = doors, 0, 0
        self._take, self.protocol.recv_frame = self.protocol.recv_frame, self._taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It takes its place; another may have to give way."""
        super().connection_made(transport)
        self._doors.enter(self.id, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Reads the frames in it, unless they are too many."""
        self._frames = 0
        super().data_received(data)

    def heard(self) -> None:
        """A whole message came."""
        self._doors.heard(self.id)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free."""
        self._doors.leave(self.id)
        super().connection_lost(exc)

    def _taken(self, frame: Frame) -> None:
        self._frames += 1
        if self._frames > _FRAMES:
            raise ProtocolError(f"more than {_FRAMES} frames at once")  # ends the connection, and nothing behind it is read
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._pieces = 0
        self._pieces += frame.opcode is Opcode.CONT
        if self._pieces > _PIECES:
            raise ProtocolError(f"a message of more than {_PIECES} pieces")
        if frame.opcode is Opcode.PING and self.transport.get_write_buffer_size() > _UNREAD:
            self.transport.abort()
            return
        self._take(frame)


@dataclass(eq=False)
class Question:
    """What one message asked."""

    begun: float
    """Seconds of the clock when it came."""
    enveloped: bool = False
    """Without an envelope the client is openpi's, which understands only a text and the end of the connection as an error."""
    number: int | None = None
    """What the client calls it; repeated in the answer."""
    answer: Answer | None = None
    """None until it is known."""
    served: Callable[[], object] = lambda: None
    """What is left to do when the answer is on its way."""


@dataclass(eq=False)
class Turns:
    """A later question that is answered first waits for the earlier ones; clients that number nothing rely on it.

    Args:
        most: Questions that may be open; one more waits to be asked.
    """

    most: int
    _open: deque[Question] = field(default_factory=deque)
    _answered: asyncio.Queue[Question] = field(default_factory=asyncio.Queue)
    _free: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.most)

    async def ask(self, question: Question) -> None:
        """Its turn is after all that were asked before."""
        await self._free.acquire()
        self._open.append(question)

    def answer(self, question: Question, answer: Answer) -> None:
        """The answer to a question that was asked."""
        question.answer = answer
        while self._open and self._open[0].answer is not None:
            self._answered.put_nowait(self._open.popleft())

    async def next(self) -> Question:
        """The oldest question, when it is answered."""
        question = await self._answered.get()
        self._free.release()
        return question


@dataclass(eq=False)
class Conversation:
    """Answers what one client asks.

    Args:
        connection: To the client.
        worker: Runs the policy.
        contracts: By the name of the adapter, as they are now; the first is the default.
        adapters: Changes what is served.
        metrics: What is counted.
    """

    connection: Counted
    worker: Worker
    contracts: Mapping[str, Contract]
    adapters: Adapters
    metrics: Metrics
    _turns: Turns = field(default_factory=lambda: Turns(_PENDING), init=False)

    async def hold(self) -> None:
        """Reads observations while older ones are answered, until the connection ends."""
        self.metrics.clients.inc()
        sender = asyncio.create_task(self._send())
        try:
            await self.connection.send(encode(metadata_of(self.contracts)))
            async for message in self.connection:
                self.connection.heard()
                question = Question(time.monotonic())
                await self._turns.ask(question)
                try:
                    await self._begin(message, question)
                except Exception as error:
                    self._turns.answer(question, partial(_failed, without_frames(error)))
                    await asyncio.sleep(0)  # the others' turn, before the next one fails
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
            self.worker.forget(self.connection.id)
            self.metrics.clients.dec()

    async def _begin(self, message: str | bytes, question: Question) -> None:
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
                self._turns.answer(question, partial(self._actions, question, name, contract, came))

            files = any(isinstance(value, bytes) for value in content.values())  # a JPEG takes time, an array none
            seen = await asyncio.to_thread(observation_in, content, contract) if files else observation_in(content, contract)
            self.worker.submit(self.connection.id, seen, name, done)
        elif endpoint == "reset":
            self._turns.answer(question, _reset)
        elif endpoint in (ADD, REMOVE):
            self._turns.answer(question, partial(self._change, endpoint, content))
        else:
            raise MessageError(f"endpoint {str(endpoint)[:40]!r}: there are infer, reset, {ADD} and {REMOVE}.")

    async def _send(self) -> None:
        await self._send_until_failed()
        closing = asyncio.create_task(self.connection.close(1011, "see the message before"))
        try:
            while True:  # nobody hears the rest, but who reads the connection must see its end
                await self._turns.next()
        finally:
            await closing

    async def _send_until_failed(self) -> None:
        previous: float | None = None
        while True:
            question = await self._turns.next()
            message, failed = await self._message(question, previous)
            try:
                await self.connection.send(message)
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
            return encode(answer | _numbered(question)), False
        except (MessageError, RefusedError, ValueError, FileNotFoundError) as error:
            self.metrics.rejected.labels(type(error).__name__).inc()
            answer = error_record(str(error))
        except Exception:  # what a policy raises is for the log, not for the network
            answer = error_record(FAILED)
            self.metrics.rejected.labels("failure").inc()
            _log.exception("request %s failed", answer["id"])
        plain = f"{answer['message']} ({answer['id']})"
        return (encode(answer | _numbered(question)) if question.enveloped else plain), True

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
        name = await changed(self.adapters, self.worker, endpoint, message)
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
        raise MessageError("a text frame came: observations are binary msgpack messages.")
    content = decode(message, most=_PARTS)
    if not isinstance(content, Mapping):
        raise MessageError(f"a message is a map, not a {type(content).__name__}.")
    return content
