"""A run, or several over one base, or a merged checkpoint, on a websocket."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig
from rich.console import Console

from vla_tune.policy import LocalPolicy
from vla_tune.run.objects import build, device_of, load_policy
from vla_tune.run.shared import load_shared
from vla_tune.schema import Contract, Observation
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Act, Worker

DEFAULT = "default"
"""The name of a policy that is served alone."""


def serve(cfg: DictConfig) -> None:
    """What `scripts/serve.py` does: serve until it is interrupted.

    Raises:
        ValueError: no policy is named, or the address is not protected by `cfg.security`.
        OSError: the port is taken.
    """
    logging.basicConfig(level=logging.INFO)
    security = build(cfg.security)
    security.check(cfg.host)  # before minutes of loading
    act, contracts = _policies(cfg)
    server = PolicyServer(Worker(act, rows=cfg.rows, seconds=float(cfg.seconds)), contracts, security, Metrics())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, cfg.host, cfg.port))


async def _serve(server: PolicyServer, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.serving(host, port) as listening:
        for name, contract in server.contracts.items():
            await server.worker.submit(f"warm-up of {name}", _dark(contract), name)
        server.ready = True
        scheme = "ws" if server.security.context() is None else "wss"
        found = next(iter(listening.sockets)).getsockname()[1]
        Console().print(f"Serving {', '.join(server.contracts)} at {scheme}://{host}:{found}", highlight=False, soft_wrap=True)
        await stop.wait()


def _policies(cfg: DictConfig) -> tuple[Act, Mapping[str, Contract]]:
    """What acts, and the contracts by name."""
    folders = [Path(folder) for folder in ([cfg.policy] if isinstance(cfg.policy, str) else cfg.policy)]
    if not folders:
        raise ValueError("no policy is named: policy=runs/a, or policy=[runs/a,runs/b] over one base.")
    device = device_of(cfg)
    if len(folders) == 1:
        policy = load_policy(folders[0], rows=cfg.rows, device=device).policy
        return _alone(policy), {DEFAULT: policy.contract}
    shared = load_shared({folder.name: folder for folder in folders}, rows=cfg.rows, device=device)
    return shared.act, {folder.name: Contract.load(folder) for folder in folders}


def _alone(policy: LocalPolicy) -> Act:
    def act(observations: Sequence[Observation], _: Sequence[str]) -> Sequence[Float[np.ndarray, "T A"]]:
        return list(policy.act(observations))

    return act


def _dark(contract: Contract) -> Observation:
    """An observation for the first inference, which is the slowest."""
    body: Any = contract.embodiment
    images = {camera.role: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in body.cameras}
    return Observation(images=images, state=np.zeros(body.state_dimension, np.float32), instruction="be ready")
