"""A server beside other work of the same process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue

from vla_tune.serving.server import PolicyServer


@contextmanager
def serving_in_background(server: PolicyServer, host: str, port: int) -> Iterator[int]:
    """Serves in a thread until the block ends; gives the port that it listens at.

    Raises:
        Exception: what prevented it from listening.
    """
    started: Queue[int | Exception] = Queue()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        try:
            async with server.serving(host, port) as listening:
                started.put(next(iter(listening.sockets)).getsockname()[1])
                await stop.wait()
        except Exception as error:  # the caller waits for an answer
            started.put(error)

    thread = threading.Thread(target=lambda: asyncio.run(serve(), loop_factory=lambda: loop), name="server")
    thread.start()
    found = started.get()
    try:
        if isinstance(found, Exception):
            raise found
        yield found
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
