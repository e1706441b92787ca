"""A server in a thread of its own, over a policy that is a function."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from vla_tune.schema import Contract
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Loopback, Security
from vla_tune.serving.server import FixedAdapters, PolicyServer
from vla_tune.serving.worker import Worker


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    port: int
    server: PolicyServer

    @property
    def url(self) -> str:
        return f"ws://localhost:{self.port}"


@pytest.fixture
def served(tiny_contract: Contract):
    """Serves `act` until the block ends."""

    @contextmanager
    def run(
        act: Callable, *, security: Security | None = None, rows: int = 4, contracts=None, port: int = 0, adapters=None
    ) -> Iterator[Address]:
        server = PolicyServer(
            Worker(act, rows=rows, seconds=5.0),
            contracts or {"default": tiny_contract},
            security or Loopback(),
            Metrics(),
            adapters or FixedAdapters(),
        )
        listening, found = threading.Event(), []

        async def main() -> None:
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            async with server.serving("localhost", port) as made:
                found.extend([made.sockets[0].getsockname()[1], loop, stop])
                listening.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert listening.wait(10)
        try:
            yield Address(found[0], server)
        finally:
            found[1].call_soon_threadsafe(found[2].set)
            thread.join(10)

    return run


@pytest.fixture
def echo():
    """Actions that are the state, so that answers cannot be mistaken."""

    def act(observations, names):
        return [np.tile(observation.state.astype(np.float32), (4, 1)) for observation in observations]

    return act
