"""A server in a process of its own, over a policy that swings an arm to and fro; run, and killed, by test_killed_server.py."""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np

from vla_tune.schema import Contract
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker

STEP, LATENCY = 0.03, 0.06
"""rad a tick; seconds."""


async def main(folder: Path, port: int) -> None:
    contract = Contract.load(folder)
    begun = time.monotonic()

    def act(observations, names):
        time.sleep(LATENCY)
        way = STEP * np.arange(1, contract.horizon + 1) * (1 if int(time.monotonic() - begun) % 2 else -1)
        return [np.stack([seen.state[0] + way, seen.state[1] - way, np.ones_like(way)], axis=1) for seen in observations]

    server = PolicyServer(Worker(act, rows=1, seconds=5.0), {"default": contract}, Loopback(), Metrics())
    async with server.serving("localhost", port) as listening:
        print(next(iter(listening.sockets)).getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
