"""Who may reach a server: nobody but this machine, whoever has the key over TLS, or, said aloud, anybody."""

import hmac
import ipaddress
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

_log = logging.getLogger(__name__)


@runtime_checkable
class Security(Protocol):
    """Decides which addresses are served, how connections are encrypted and who is let in."""

    def check(self, host: str) -> None:
        """Refuse an address that this choice does not protect.

        Raises:
            ValueError: it is reachable from elsewhere.
        """
        ...

    def context(self) -> ssl.SSLContext | None:
        """For TLS; None serves plain."""
        ...

    def admits(self, authorization: str | None) -> bool:
        """Whether a connection with this `Authorization` header is let in."""
        ...

    def known_as(self, host: str) -> bool:
        """Whether a request whose `Host` header says this is meant for this server.

        A page in a browser can give its own name this machine's address, and then reads what is answered.
        """
        ...


@dataclass(frozen=True)
class Loopback:
    """This machine alone."""

    def check(self, host: str) -> None:
        """Only loopback addresses."""
        if not is_loopback(host):
            raise ValueError(
                f"host={host} is reachable from other machines: choose security=tls with a key and a certificate, or, in a network "
                "that you trust, security=insecure."
            )

    def context(self) -> None:
        """Plain."""

    def admits(self, authorization: str | None) -> bool:
        """Everybody here."""
        return True

    def known_as(self, host: str) -> bool:
        """By the names of this machine for itself."""
        return is_loopback(urlsplit(f"//{host}").hostname or "")


@dataclass(frozen=True)
class Tls:
    """Encrypted, and only with the key.

    Raises:
        ValueError: a file is missing, or the key is too short.
    """

    certificate: str
    """PEM file."""
    private_key: str
    """PEM file."""
    api_key_file: str
    """Holds the key that clients send as `Authorization: Api-Key ...`."""

    def __post_init__(self) -> None:
        for name in ("certificate", "private_key", "api_key_file"):
            if not Path(getattr(self, name)).is_file():
                raise ValueError(f"security.{name}={getattr(self, name)} is no file: make one, e.g. with openssl.")
        if len(self._key) < 16:
            raise ValueError(f"{self.api_key_file} holds {len(self._key)} characters: a key needs at least 16.")

    def check(self, host: str) -> None:
        """Any address."""

    def context(self) -> ssl.SSLContext:
        """Of the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.private_key)
        return context

    def admits(self, authorization: str | None) -> bool:
        """With the key; compared in constant time."""
        return hmac.compare_digest((authorization or "").encode(errors="surrogateescape"), f"Api-Key {self._key}".encode())

    def known_as(self, host: str) -> bool:
        """By any name: the certificate says which is right, and no page has the key."""
        return True

    @property
    def _key(self) -> str:
        return Path(self.api_key_file).read_text().strip()


@dataclass(frozen=True)
class Insecure:
    """Anybody who reaches the address commands the robot."""

    def check(self, host: str) -> None:
        """Any address, with a warning."""
        _log.warning("security=insecure: whoever reaches %s reads what the robot sees and uses the policy.", host)

    def context(self) -> None:
        """Plain."""

    def admits(self, authorization: str | None) -> bool:
        """Everybody."""
        return True

    def known_as(self, host: str) -> bool:
        """By any name."""
        return True


def stranger(security: Security, *, host: str | None, origin: str | None) -> str | None:
    """Why a request with these headers is not answered, in one sentence; None if it is.

    A page in a browser says where it is from, a robot does not.
    """
    if origin is not None:
        return f"a page in a browser ({origin[:80]!r}) is not served."
    try:
        known = security.known_as(host or "")
    except ValueError:  # brackets that do not match
        known = False
    return None if known else f"the server is not called {(host or '')[:80]!r}: ask for localhost or 127.0.0.1."


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine and no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
