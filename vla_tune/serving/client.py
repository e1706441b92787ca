"""A policy that runs elsewhere: needs numpy, msgpack and websockets, and no torch."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from vla_tune.schema import Contract, Observation
from vla_tune.serving.codec import ADAPTER, ADD, ENDPOINT, REMOVE, REQUEST_ID, decode, encode, request_of
from vla_tune.serving.handshake import SAID, ServerError, UnreachableError, Way, announced_shape
from vla_tune.serving.limits import MessageError
from vla_tune.serving.security import is_loopback


@dataclass(eq=False)
class RemotePolicy:
    """Acts as a local policy does, over a websocket.

    The connection is made when it is first needed, and again, after pauses that double, when it was lost. Threads take turns: a
    question waits for the answer to the one before.

    Args:
        url: `ws://host:port`, or `wss://` for TLS.
        contract: What the policy must be; None takes what the server announces.
        adapter: Which of the server's adapters acts; None is its default.
        api_key: For servers that ask for one.
        jpeg_quality: Sends pictures as JPEG, if the server was started with the same quality; None sends them as they are.
        certificate: A PEM file with the authority that signed the server's certificate; None trusts the system's.
        timeout: Seconds for an answer.
        patience: Seconds of trying to connect.

    Every answer is that of its own question: a server that announces it repeats the question's number, and a connection on which
    something else comes, or on which something waits before anything is asked, is ended.

    Raises:
        ValueError: a key would be sent in clear to another machine; on connecting, if the server has another contract.
        UnreachableError: no connection within `patience`, no answer within `timeout`, or the answer to another question.
        ServerError: the server refused the observation.
    """

    url: str
    contract: Contract | None = None
    adapter: str | None = None
    api_key: str | None = field(default=None, repr=False)
    certificate: str | None = None
    jpeg_quality: int | None = None
    timeout: float = 10.0
    patience: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    _connection: ClientConnection | None = field(default=None, init=False)
    _closing: ExitStack = field(default_factory=ExitStack, init=False)
    _metadata: dict[str, Any] = field(default_factory=dict, init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False, repr=False)
    _turn: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _shape: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    """Of a chunk: horizon and action dimension, as announced."""
    timing: dict[str, float] = field(default_factory=dict, init=False)
    """Of the last answer, in ms: the server's `infer_ms` and `queue_ms`, and `round_trip_ms`."""

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if self.api_key is not None and address.scheme != "wss" and not is_loopback(address.hostname or ""):
            raise ValueError(f"{self.url}: the key would cross the network in clear; use wss:// (the server: security=tls).")

    @property
    def _way(self) -> Way:
        given = {"api_key": self.api_key, "certificate": self.certificate, "timeout": self.timeout, "patience": self.patience}
        return Way(url=self.url, sleep=self.sleep, **given)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server said first."""
        with self._turn:
            self._connected()
            return self._metadata

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in robot units."""
        return np.stack([self._infer(observation) for observation in observations])

    def reset(self) -> None:
        """Tell the server that a new episode begins."""
        self._ask({ENDPOINT: "reset"})

    def add_adapter(self, name: str) -> None:
        """Make the server load one more adapter, from the folder that it was started with."""
        self._ask({ENDPOINT: ADD, ADAPTER: name})

    def remove_adapter(self, name: str) -> None:
        """Make the server forget an adapter."""
        self._ask({ENDPOINT: REMOVE, ADAPTER: name})

    def close(self) -> None:
        """End the connection; the next call makes a new one."""
        self._connection = None
        self._closing.close()

    def _infer(self, observation: Observation) -> Float[np.ndarray, "T A"]:
        begun = time.perf_counter()
        reply = self._ask({ENDPOINT: "infer"} | request_of(observation, adapter=self.adapter, jpeg_quality=self.jpeg_quality))
        actions = chunk_of(reply.get("actions"), self._shape)
        self.timing = {"round_trip_ms": 1000 * (time.perf_counter() - begun)} | timing_of(reply.get("server_timing"))
        return actions

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One question, one answer; a connection that was lost is made again once."""
        with self._turn:
            try:
                return self._exchanged(message)
            except ConnectionClosed:
                self.close()
            try:
                return self._exchanged(message)
            except ConnectionClosed as error:
                self.close()
                raise UnreachableError(f"{self.url} closed the connection ({error}).") from None

    def _exchanged(self, message: dict[str, Any]) -> dict[str, Any]:
        connection = self._connected()
        numbered = {REQUEST_ID: next(self._numbers)} if self._metadata.get(REQUEST_ID) is True else {}
        encoded = encode(message | numbered)
        self._expect_nothing(connection)
        connection.send(encoded)
        try:
            reply = content_of(connection.recv(timeout=self.timeout))
        except TimeoutError:
            self.close()  # its answer may still come, and must not be taken for the next one's
            raise UnreachableError(f"{self.url} gave no answer within {self.timeout:g} s.") from None
        except MessageError as error:
            self.close()
            raise ServerError(f"{self.url} sent what cannot be read: {error}") from None
        if reply.get(REQUEST_ID) != numbered.get(REQUEST_ID):
            self.close()
            raise UnreachableError(f"{self.url} answered another question than the one that was asked: the connection was ended.")
        if reply.get("type") == "error":
            raise ServerError(f"{reply.get('message')} ({reply.get('id')})"[:SAID])
        return reply

    def _expect_nothing(self, connection: ClientConnection) -> None:
        """A message that waits would be taken for the answer to what is asked now, and each later one for the next."""
        try:
            connection.recv(timeout=0)
        except TimeoutError:
            return
        self.close()
        raise UnreachableError(f"{self.url} sent a message that nobody asked for: the connection was ended.")

    def _connected(self) -> ClientConnection:
        if self._connection is None:
            connection = self._closing.enter_context(self._way.open())
            try:
                self._metadata = content_of(connection.recv(timeout=self.timeout))
                asked = {"contract": self.contract, "adapter": self.adapter, "jpeg_quality": self.jpeg_quality}
                self._shape = announced_shape(self.url, self._metadata, **asked)
            except BaseException:
                self.close()
                raise
            self._connection = connection
        return self._connection


def content_of(message: str | bytes) -> dict[str, Any]:
    """What a server said.

    Raises:
        ServerError: a text, which is an error.
        MessageError: it cannot be read.
    """
    if isinstance(message, str):
        raise ServerError(message[:SAID])
    content = decode(message)
    if not isinstance(content, dict):
        raise MessageError(f"a message is a map, not a {type(content).__name__}.")
    return content


def chunk_of(actions: Any, shape: tuple[int, int]) -> Float[np.ndarray, "T A"]:
    """Actions that can be played, in memory of their own: what was decoded cannot be written.

    Raises:
        ServerError: they are something else.
    """
    if not isinstance(actions, np.ndarray) or actions.shape != shape or actions.dtype.kind != "f" or not np.isfinite(actions).all():
        found = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, np.ndarray) else type(actions).__name__
        raise ServerError(f"the server's actions are {found}, and not finite numbers {list(shape)}: look at its log.")
    return np.array(actions)


def timing_of(record: Any) -> dict[str, float]:
    """What the server says about its time, if it does."""
    return (
        {key: float(value) for key, value in record.items() if isinstance(value, int | float)} if isinstance(record, dict) else {}
    )


def remote_policy(
    url: str,
    *,
    contract: str | None,
    adapter: str | None,
    api_key_file: str | None,
    certificate: str | None,
    jpeg_quality: int | None,
    timeout: float,
    patience: float,
) -> RemotePolicy:
    """As a configuration describes it: `contract` is a folder with a `contract.json`, `api_key_file` holds the key.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    return RemotePolicy(
        url,
        contract=Contract.load(Path(contract)) if contract else None,
        adapter=adapter,
        api_key=Path(api_key_file).read_text().strip() if api_key_file else None,
        certificate=certificate,
        jpeg_quality=jpeg_quality,
        timeout=float(timeout),
        patience=float(patience),
    )
