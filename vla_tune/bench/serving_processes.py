"""Servers over a policy that does nothing, each in a process of its own, so that only the serving is measured."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
from websockets.asyncio.server import ServerConnection, serve

from vla_tune.bench.measure import memory_of
from vla_tune.schema import Contract
from vla_tune.serving.codec import STATE
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    pid: int

    def resident_bytes(self) -> int:
        """Of the server's process, now."""
        return memory_of(self.pid, "VmRSS")


@contextmanager
def running(target: Callable[..., Any], *arguments: Any) -> Iterator[Running]:
    """`target(ready, *arguments)` in a new process until the block ends; it sends its port through `ready`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    try:
        if not here.poll(60):
            raise RuntimeError("the server that is measured did not start within 60 s.")
        assert process.pid is not None
        yield Running(f"ws://localhost:{here.recv()}", process.pid)
    finally:
        process.terminate()
        process.join()


def ours(ready: Connection, contract: Contract, seconds: float) -> None:
    """The server of this project; its policy takes `seconds` and answers with the state."""

    def act(observations: Any, _: Any) -> list[np.ndarray]:
        if seconds:  # even a sleep of zero gives the interpreter away, which the other servers' policy does not do
            time.sleep(seconds)
        return [np.tile(observation.state, (contract.horizon, 1)) for observation in observations]

    async def listen() -> None:
        server = PolicyServer(Worker(act, rows=8, seconds=600.0), {"default": contract}, Loopback(), Metrics())
        async with server.serving("localhost", 0) as listening:
            ready.send(next(iter(listening.sockets)).getsockname()[1])
            await asyncio.Future()

    asyncio.run(listen())


def minimal(ready: Connection, horizon: int, in_thread: bool) -> None:
    """As openpi's: whatever comes is decoded and answered; the policy runs in the event loop, or in a thread."""

    def act(message: Any) -> bytes:
        actions = np.tile(np.asarray(message[STATE], np.float32), (horizon, 1))
        return msgpack.packb({"actions": actions, "server_timing": {"infer_ms": 0.0}}, default=_plain)  # pyright: ignore[reportReturnType]

    async def answer(connection: ServerConnection) -> None:
        await connection.send(msgpack.packb({}))  # pyright: ignore[reportArgumentType]
        async for message in connection:
            observation = msgpack.unpackb(message, object_hook=_array)  # pyright: ignore[reportArgumentType]
            await connection.send(await asyncio.to_thread(act, observation) if in_thread else act(observation))

    async def listen() -> None:
        async with serve(answer, "localhost", 0, compression=None, max_size=None) as listening:
            ready.send(next(iter(listening.sockets)).getsockname()[1])
            await asyncio.Future()

    asyncio.run(listen())


def _plain(array: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def _array(record: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in record:
        return record
    return np.ndarray(buffer=record[b"data"], dtype=np.dtype(record[b"dtype"]), shape=record[b"shape"])
