"""What may join the policies that are served, and leave them, while they are served."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from vla_tune.serving.codec import ADAPTER, ADD, REMOVE
from vla_tune.serving.limits import MessageError
from vla_tune.serving.worker import Worker


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


async def changed(adapters: Adapters, worker: Worker, endpoint: str, message: Mapping[str, Any]) -> str:
    """Add or remove what a message names, between two forward passes; returns the name.

    Raises:
        MessageError: it names nothing.
        Exception: what `adapters` raises.
    """
    name = message.get(ADAPTER)
    if not isinstance(name, str):
        raise MessageError(f"{endpoint} names no adapter: say which one as text under {ADAPTER!r}.")
    await worker.between(partial({ADD: adapters.add, REMOVE: adapters.remove}[endpoint], name))
    return name
