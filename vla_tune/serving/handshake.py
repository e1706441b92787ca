"""How a client reaches its server: a connection, and the contract that it must announce."""

import random
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from vla_tune.schema import Contract
from vla_tune.serving.limits import MAX_BYTES
from vla_tune.serving.protocol import chunk_shape, contract_hash, contract_in

SAID = 2000
"""Characters of what a server says that are repeated."""
_NAMED = 3
"""Differing fields in a message, at most."""
_CLOSING = 1.0
"""Seconds for a server to say goodbye; an answer that did not come in time must not take much longer to be given up."""


class UnreachableError(ConnectionError):
    """There is no connection, or no answer in time."""


class ServerError(Exception):
    """The server refused an observation, or failed on it; the message is its own."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """The way to a server.

    Args:
        url: `ws://host:port`, or `wss://` for TLS.
        api_key: For servers that ask for one.
        certificate: A PEM file with the authority that signed the server's certificate; None trusts the system's.
        timeout: Seconds for an answer.
        patience: Seconds of trying.
        sleep: Waits.
    """

    url: str
    api_key: str | None = field(repr=False)
    certificate: str | None
    timeout: float
    patience: float
    sleep: Callable[[float], None]

    def open(self) -> ClientConnection:
        """A connection; a server that is not there is asked again, after pauses that double.

        Raises:
            UnreachableError: none within `patience`.
            ServerError: the server refused it, or its certificate is not trusted.
        """
        deadline, pause = time.monotonic() + self.patience, 0.05
        headers = {} if self.api_key is None else {"Authorization": f"Api-Key {self.api_key}"}
        context = ssl.create_default_context(cafile=self.certificate) if self.url.startswith("wss:") else None
        options: dict[str, Any] = {"compression": None, "proxy": None, "max_size": MAX_BYTES, "ssl": context}
        options |= {"close_timeout": _CLOSING, "max_queue": 1}
        while True:
            try:
                opened = connect(self.url, additional_headers=headers, open_timeout=self.timeout, **options)
                # a server that reads nothing would keep a large observation, and who sends it, for ever
                opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", *_divided(self.timeout)))
                return opened
            except InvalidStatus as error:
                raise ServerError(f"{self.url} refused: HTTP {error.response.status_code} {error.response.body!r}"[:SAID]) from None
            except ssl.SSLCertVerificationError as error:
                remedy = "name its authority as certificate="
                raise ServerError(f"{self.url} has a certificate that is not trusted ({error.verify_message}): {remedy}.") from None
            except (OSError, WebSocketException) as error:
                if time.monotonic() + pause > deadline:
                    raise UnreachableError(f"{self.url} cannot be reached within {self.patience:g} s ({error}).") from None
                self.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, 2.0)


def announced_shape(
    url: str, metadata: dict[str, Any], *, contract: Contract | None, adapter: str | None, jpeg_quality: int | None
) -> tuple[int, int]:
    """Horizon and action dimension of the chunks that will come.

    Args:
        url: Of the server.
        metadata: What it announced.
        contract: What its policy must be; None takes what it announced.
        adapter: Which of its policies; None is its default.
        jpeg_quality: Of the pictures that it will be sent.

    Raises:
        ValueError: it has another contract, no such adapter, or reads other pictures.
    """
    _check_contract(url, metadata, contract, adapter, jpeg_quality)
    shape = chunk_shape(metadata, adapter)
    if contract is not None and shape != (known := (contract.horizon, contract.embodiment.action_dimension)):
        raise ValueError(f"{url} announces chunks of {list(shape)}, the contract {list(known)}.")
    return shape


def _check_contract(
    url: str, metadata: dict[str, Any], contract: Contract | None, adapter: str | None, jpeg_quality: int | None
) -> None:
    known = metadata.get("adapters", {})
    name = adapter or metadata.get("default_adapter")
    if not isinstance(known, dict) or not isinstance(name, str) or name not in known:
        there = ", ".join(map(str, known)) if isinstance(known, dict) else f"a {type(known).__name__}"
        raise ValueError(f"{url} has no adapter {str(name)[:80]!r}: there are {there}."[:SAID])
    offered = metadata.get("jpeg_quality")
    if jpeg_quality not in (None, offered):
        raise ValueError(f"{url} was started with jpeg_quality={offered}, this client with {jpeg_quality}: choose one.")
    given = contract and replace(contract, jpeg_quality=offered)  # a client may send what is better than announced
    if given is not None and contract_hash(given) != known[name]:
        found = _difference(given, metadata)
        raise ValueError(f"{url} acts by another contract than the one given: {found}.")


def _difference(contract: Contract, metadata: dict[str, Any]) -> str:
    """What differs first: what the server announces, and what was given."""
    try:
        other = contract_in(metadata)
    except ValueError as error:
        return str(error)
    found = other.differences(contract, beside=("version",))
    return "; ".join(found[:_NAMED]) or "the adapter is not the server's default, and its contract differs"


def _divided(seconds: float) -> tuple[int, int]:
    """Whole seconds and microseconds."""
    return divmod(max(1, round(seconds * 1_000_000)), 1_000_000)
