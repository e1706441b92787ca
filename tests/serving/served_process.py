"""A server in a process of its own, over a policy that does nothing; run by test_hostile.py."""

import asyncio
import sys
from pathlib import Path

import numpy as np

from vla_tune.schema import Contract
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker


async def main(folder: Path) -> None:
    contract = Contract.load(folder)
    chunk = np.zeros((contract.horizon, contract.embodiment.action_dimension), np.float32)
    worker = Worker(lambda observations, names: [chunk] * len(observations), rows=4, seconds=5.0)
    server = PolicyServer(worker, {"default": contract}, Loopback(), Metrics())
    async with server.serving("localhost", 0) as listening:
        print(next(iter(listening.sockets)).getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main(Path(sys.argv[1])))
