"""What serving costs: a round trip beside a minimal server's, many clients at once, and a slow policy."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from vla_tune.bench.measure import Row
from vla_tune.bench.serving_processes import Running, minimal, ours, running
from vla_tune.bench.table import row_lines
from vla_tune.schema import Camera, Contract, Observation
from vla_tune.serving import codec
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.codec import request_of

OURS, THREAD, BLOCKING = "vla-tune", "minimal, inference in a thread", "minimal, inference in the event loop"
_OPTIONS = {"compression": None, "proxy": None, "max_size": None}


@dataclass(frozen=True, kw_only=True)
class ServeSuite:
    """Two 224 x 224 images there, a chunk of actions back, over loopback, by a policy that takes no time.

    Args:
        checkpoint: The folder whose contract is served.
        requests: Round trips of one turn.
        turns: The servers in turn, that often.
        repetitions: Starts of the servers; the numbers are medians over them.
        clients: At once.
        crowd: Requests of all of them together.
        slow: Seconds that one inference takes, to see whether the connection lives.
    """

    checkpoint: str
    requests: int
    turns: int
    repetitions: int
    clients: int
    crowd: int
    slow: float

    def rows(self) -> list[Row]:
        """Round trips, the crowd and the slow policy."""
        contract = with_two_cameras(Contract.load(Path(self.checkpoint)))
        return [*self._round_trips(contract), self._crowd(contract), self._slow(contract)]

    def report(self, rows: Sequence[Row]) -> str:
        """The rows as text."""
        return row_lines(rows)

    def _round_trips(self, contract: Contract) -> list[Row]:
        """Every repetition starts the servers anew: how memory happens to lie in a process is worth 20 % of a round trip."""
        message = codec.encode(request_of(seen(contract, 0.0)))
        times: dict[str, list[list[float]]] = {OURS: [], THREAD: [], BLOCKING: []}
        starts: dict[str, tuple[Any, ...]] = {
            OURS: (ours, contract, 0.0),
            THREAD: (minimal, contract.horizon, True),
            BLOCKING: (minimal, contract.horizon, False),
        }
        for _ in range(self.repetitions):
            with ExitStack() as stack:
                connections = {name: _connected(stack, stack.enter_context(running(*start))) for name, start in starts.items()}
                for connection in connections.values():
                    _ask(connection, message, times=self.requests)
                for name in connections:
                    times[name].append([])
                for name in [*connections] * self.turns:
                    times[name][-1] += _ask(connections[name], message, times=self.requests)
        p50 = {name: float(np.median([np.median(each) for each in taken])) for name, taken in times.items()}
        return [
            {
                "name": name,
                "p50_ms": 1000 * p50[name],
                "p99_ms": 1000 * float(np.median([np.quantile(each, 0.99) for each in taken])),
                "p50_of_ours": p50[OURS] / p50[name],
            }
            for name, taken in times.items()
        ]

    def _crowd(self, contract: Contract) -> Row:
        """Each client sends numbers of its own and must get them back."""
        each = self.crowd // self.clients

        def client(number: int, url: str, count: int) -> int:
            remote, right = RemotePolicy(url, contract=contract, timeout=60.0), 0
            for index in range(count):
                state = number + index / count
                right += bool((remote.act([seen(contract, state)])[0] == np.float32(state)).all())
            remote.close()
            return right

        with running(ours, contract, 0.0) as server, ThreadPoolExecutor(self.clients) as pool:
            list(pool.map(client, range(self.clients), [server.url] * self.clients, [each // 5] * self.clients))
            before, begun = server.resident_bytes(), perf_counter()
            right = sum(pool.map(client, range(self.clients), [server.url] * self.clients, [each] * self.clients))
            seconds, after = perf_counter() - begun, server.resident_bytes()
        total = each * self.clients
        return {
            "name": f"{self.clients} clients at once",
            "requests": total,
            "lost_or_crossed": total - right,
            "per_second": total / seconds,
            "memory_before_mb": before / 1e6,
            "memory_after_mb": after / 1e6,
        }

    def _slow(self, contract: Contract) -> Row:
        with running(ours, contract, self.slow) as server:
            remote = RemotePolicy(server.url, contract=contract, timeout=self.slow + 30)
            answered = remote.act([seen(contract, 0.5)]).shape[0] == 1
            remote.close()
        return {"name": f"an inference of {self.slow:g} s", "answered": answered}


def with_two_cameras(contract: Contract) -> Contract:
    """The same with two cameras of 224 x 224."""
    roles = ("front", "wrist")
    cameras = tuple(Camera(role=role, key=f"observation.images.{role}", height=224, width=224) for role in roles)
    return replace(contract, embodiment=replace(contract.embodiment, cameras=cameras))


def seen(contract: Contract, value: float) -> Observation:
    """Pictures of noise, and a state that is `value` in every dimension."""
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    body = contract.embodiment
    state = np.full(body.state_dimension, value, np.float32)
    return Observation({camera.role: pixels for camera in body.cameras}, state, "lift the red block")


def _connected(stack: ExitStack, server: Running) -> ClientConnection:
    connection = stack.enter_context(connect(server.url, **_OPTIONS))
    connection.recv(timeout=30)
    return connection


def _ask(connection: ClientConnection, message: bytes, *, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        begun = perf_counter()
        connection.send(message)
        connection.recv(timeout=30)
        taken.append(perf_counter() - begun)
    return taken
