"""One thread that runs the policy: a client's newest observation wins, and clients that wait together share a forward pass."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from jaxtyping import Float

from vla_tune.schema import Contract, Observation, Policy

_STOPS = "the server stops"


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
    done: "Done"


type ActByName = Callable[[Sequence[Observation], Sequence[str]], Sequence[Float[np.ndarray, "T A"]]]
"""Actions for observations, each by the adapter named beside it; runs in the worker's thread.

No `vla_tune.schema.Policy`, which is one adapter: here those of several share a forward pass, and their chunks may differ in shape.
"""


def alone(policy: Policy) -> ActByName:
    """A policy that is served alone, whatever its name."""

    def act(observations: Sequence[Observation], _: Sequence[str]) -> Sequence[Float[np.ndarray, "T A"]]:
        return list(policy.act(observations))

    return act


type Done = Callable[[Reply | Exception], None]
"""Takes what became of an observation, in the event loop."""


@dataclass(eq=False)
class Worker:
    """Belongs to one event loop, which it never blocks; a pass begins as soon as the one before has ended.

    Args:
        act: What runs the policy.
        rows: The most observations in one forward pass.
        seconds: How long a request may wait before its forward pass begins.
    """

    act: ActByName
    rows: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _waiting: dict[Hashable, _Request] = field(default_factory=dict, init=False)
    _busy: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _jobs: SimpleQueue[Callable[[], object] | None] = field(default_factory=SimpleQueue, init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests whose forward pass has not begun."""
        return len(self._waiting)

    def submit(self, client: Hashable, observation: Observation, adapter: str, done: Done) -> None:
        """Acts on an observation of `client` and gives `done` the reply; an older one of it that still waits is dropped.

        `done` gets a RefusedError if a newer observation came, it waited too long or the worker is closed, and otherwise whatever
        the policy raised on it.
        """
        now = self.clock()
        older = self._waiting.pop(client, None)
        if older is not None:
            _refuse(older, "a newer observation of this client came before its turn")
        request = _Request(observation, adapter, now, now + self.seconds, done)
        if self._closed:
            _refuse(request, _STOPS)
        else:
            self._waiting[client] = request
            self._begin()

    def reply(self, client: Hashable, observation: Observation, adapter: str) -> asyncio.Future[Reply]:
        """The same for who awaits the reply."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def done(outcome: Reply | Exception) -> None:
            if future.cancelled():
                return
            future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)

        self.submit(client, observation, adapter, done)
        return future

    def forget(self, client: Hashable) -> None:
        """The client has gone: what waits of it is not acted on."""
        self._waiting.pop(client, None)

    async def between[Result](self, change: Callable[[], Result]) -> Result:
        """What `change` returns; it runs in the policy's thread, between two forward passes.

        Raises:
            RefusedError: the worker is closed.
            Exception: what `change` raises.
        """
        if self._closed:
            raise _refusal(_STOPS)
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                settle = partial(future.set_result, change())
            except BaseException as error:
                settle = partial(future.set_exception, _exception(error))
            loop.call_soon_threadsafe(lambda: future.done() or settle())

        self._jobs.put(run)
        return await future

    async def close(self) -> None:
        """Who waits is refused; returns when the pass that is under way has ended."""
        self._closed = True
        for request in self._waiting.values():
            _refuse(request, _STOPS)
        self._waiting.clear()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        """The thread: a queue of its own, because an executor's book-keeping would be a good part of a short round trip."""
        while (job := self._jobs.get()) is not None:
            job()

    def _begin(self) -> None:
        """The next pass, if there is one to begin: from the event loop straight to the thread and back, with no task between."""
        if self._waiting and not self._busy:
            clients = list(itertools.islice(self._waiting, self.rows))
            self._busy = True
            requests = [self._waiting.pop(client) for client in clients]
            self._jobs.put(partial(self._pass, requests, asyncio.get_running_loop()))

    def _pass(self, requests: Sequence[_Request], loop: asyncio.AbstractEventLoop) -> None:
        """In the thread, which may have been kept from it by a change."""
        now = self.clock()
        late = [request for request in requests if request.deadline < now]
        others = [request for request in requests if request.deadline >= now]
        said = f"it waited longer than {self.seconds:g} s: the server is busy, or send fewer observations"
        outcomes = [*((request, _refusal(said)) for request in late), *zip(others, self._outcomes(others), strict=True)]
        loop.call_soon_threadsafe(self._end, outcomes)

    def _outcomes(self, requests: Sequence[_Request]) -> list[Reply | Exception]:
        """Of one forward pass; if it fails, of each alone, so that a bad observation harms nobody else's."""
        if not requests:
            return []
        begun = self.clock()
        try:
            chunks = self.act([request.observation for request in requests], [request.adapter for request in requests])
            seconds = self.clock() - begun
            return [
                Reply(chunk, seconds, begun - request.arrived, len(requests))
                for request, chunk in zip(requests, chunks, strict=True)
            ]
        except BaseException as error:  # whatever a policy raises, a panic of its libraries included: the worker goes on
            if len(requests) > 1:
                return [outcome for request in requests for outcome in self._outcomes([request])]
            return [_exception(error)]

    def _end(self, outcomes: Sequence[tuple[_Request, Reply | Exception]]) -> None:
        self._busy = False
        try:
            for request, outcome in outcomes:
                request.done(outcome)
        finally:
            self._begin()


def check_chunk(actions: Any, contract: Contract) -> None:
    """What a policy gave is a chunk of its contract, of finite numbers.

    Raises:
        RuntimeError: it is something else; a client could not use it.
    """
    expected = (contract.horizon, contract.embodiment.action_dimension)
    if not isinstance(actions, np.ndarray) or actions.shape != expected or actions.dtype.kind != "f":
        found = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, np.ndarray) else type(actions).__name__
        raise RuntimeError(f"the policy's chunk is {found}, the contract says {list(expected)}.")
    if not np.isfinite(actions).all():
        raise RuntimeError("the policy's chunk holds NaN or infinity: it is not sent.")


def _refuse(request: _Request, reason: str) -> None:
    request.done(_refusal(reason))


def _refusal(reason: str) -> RefusedError:
    return RefusedError(f"the observation was dropped: {reason}.")


def _exception(error: BaseException) -> Exception:
    """What may be raised in an event loop without ending it."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
