"""One thread that runs the policy: a client's newest observation wins, and clients that wait together share a forward pass."""

import asyncio
import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Float

from vla_tune.schema import Observation


class RefusedError(ValueError):
    """A request that gets no actions, with a sentence for the client."""


@dataclass(frozen=True)
class Reply:
    """The actions for one observation."""

    actions: Float[np.ndarray, "T A"]
    """Robot units."""
    inference_seconds: float
    """Of the forward pass that it shared."""
    waited_seconds: float
    """Before that pass began."""
    batch: int
    """How many shared it."""


@dataclass(eq=False)
class _Request:
    observation: Observation
    adapter: str
    arrived: float
    deadline: float
    reply: asyncio.Future[Reply]


type Act = Callable[[Sequence[Observation], Sequence[str]], Sequence[Float[np.ndarray, "T A"]]]
"""Actions for observations, each by the adapter named beside it; runs in the worker's thread."""


@dataclass(eq=False)
class Worker:
    """Belongs to one event loop, which it never blocks.

    Args:
        act: What runs the policy.
        rows: The most observations in one forward pass.
        seconds: How long a request may wait before its forward pass begins.
    """

    act: Act
    rows: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _waiting: dict[Hashable, _Request] = field(default_factory=dict)
    _something: asyncio.Event = field(default_factory=asyncio.Event)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="inference"))

    @property
    def waiting(self) -> int:
        """Requests whose forward pass has not begun."""
        return len(self._waiting)

    async def submit(self, client: Hashable, observation: Observation, adapter: str) -> Reply:
        """The reply to an observation of `client`; an older one of it that still waits is dropped.

        Raises:
            RefusedError: a newer observation came, or it waited too long.
            ValueError: the policy cannot act on this observation.
        """
        now = self.clock()
        request = _Request(observation, adapter, now, now + self.seconds, asyncio.get_running_loop().create_future())
        older = self._waiting.pop(client, None)
        if older is not None:
            _refuse(older, "a newer observation of this client came before its turn")
        self._waiting[client] = request
        self._something.set()
        return await request.reply

    async def run(self) -> None:
        """Until it is cancelled; then who waits is refused."""
        with self._thread:
            try:
                while True:
                    await self._something.wait()
                    if requests := self._next():
                        await self._serve(requests)
            finally:
                for request in self._waiting.values():
                    _refuse(request, "the server stops")
                self._waiting.clear()

    async def between[Result](self, change: Callable[[], Result]) -> Result:
        """What `change` returns; it runs in the policy's thread, between two forward passes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, change)

    def _next(self) -> list[_Request]:
        """The oldest that wait and are not late."""
        clients = list(itertools.islice(self._waiting, self.rows))
        found = [self._waiting.pop(client) for client in clients]
        if not self._waiting:
            self._something.clear()
        now = self.clock()
        for request in found:
            if request.deadline < now:
                _refuse(request, f"it waited longer than {self.seconds:g} s: the server is busy, or send fewer observations")
        return [request for request in found if not request.reply.done()]

    async def _serve(self, requests: list[_Request]) -> None:
        """One forward pass; if it fails, each alone, so that a bad observation harms nobody else's."""
        begun = self.clock()
        try:
            chunks = await self.between(partial(self._act, requests))
        except Exception as error:  # a policy may raise anything; the worker goes on
            if len(requests) > 1:
                for request in requests:
                    await self._serve([request])
            elif not requests[0].reply.done():
                requests[0].reply.set_exception(error)
            return
        seconds = self.clock() - begun
        for request, chunk in zip(requests, chunks, strict=True):
            if not request.reply.done():
                request.reply.set_result(Reply(chunk, seconds, begun - request.arrived, len(requests)))

    def _act(self, requests: Sequence[_Request]) -> Sequence[Float[np.ndarray, "T A"]]:
        return self.act([request.observation for request in requests], [request.adapter for request in requests])


def _refuse(request: _Request, reason: str) -> None:
    if not request.reply.done():
        request.reply.set_exception(RefusedError(f"the observation was dropped: {reason}."))
