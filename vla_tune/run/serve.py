"""A run, or several over one base, or a merged checkpoint, on a websocket."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig

from vla_tune.check.finding import Finding
from vla_tune.printing import say
from vla_tune.run.check import require, tell
from vla_tune.run.chosen import chosen_run
from vla_tune.run.folder import CONFIG_FILE
from vla_tune.run.objects import build, device_of, load_policy
from vla_tune.run.proof import proof
from vla_tune.run.published import named_folder, stated_contract
from vla_tune.run.recorded import dark_observation
from vla_tune.run.shared import SharedRuns, load_shared
from vla_tune.schema import Contract, Observation
from vla_tune.serving.adapters import Adapters, FixedAdapters
from vla_tune.serving.jpeg import check_quality
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.rest import Rest
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import ActByName, Worker, alone

DEFAULT = "default"
"""The name of a policy that is served alone."""


def serve(cfg: DictConfig) -> None:
    """What `scripts/serve.py` does: serve until it is interrupted.

    Raises:
        ValueError: no policy is named, or the address is not protected by `cfg.security`.
        CheckFailedError: the policy does not do what it did when it was trained.
        OSError: the port is taken.
    """
    logging.basicConfig(level=logging.INFO)
    security, rest = build(cfg.security), build(cfg.rest) if "rest" in cfg else None
    quality = check_quality(cfg.jpeg_quality)
    security.check(cfg.host)  # these two before minutes of loading
    check_free(cfg.host, *([cfg.port] if rest is None else [cfg.port, rest.port]))
    served = _policies(cfg)
    findings = served.examined(unproved=cfg.unproved)
    tell(findings)
    require(findings)
    worker = Worker(served.act, rows=cfg.rows, seconds=float(cfg.seconds))
    contracts = served.contracts if quality is None else Announced(served.contracts, quality)
    server = PolicyServer(worker, contracts, security, Metrics(), served.adapters)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, cfg.host, cfg.port, rest=rest))


def check_free(host: str, *ports: int) -> None:
    """Whether servers can listen there.

    Raises:
        OSError: one cannot.
    """
    with contextlib.ExitStack() as leaving:
        for port in ports:
            try:
                for family, kind, _, _, address in set(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
                    trial = leaving.enter_context(socket.socket(family, kind))
                    # as asyncio does: a server that just ended is no obstacle
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    trial.bind(address)
            except OSError as error:
                taken = f"port={port} of host={host} cannot be had ({error.strerror})"
                raise OSError(f"{taken}: stop what listens there, or choose another.") from None


async def _serve(server: PolicyServer, host: str, port: int, *, rest: Rest | None = None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.serving(host, port) as listening, contextlib.AsyncExitStack() as leaving:
        await server.warm_up(dark_observation)
        secure = "" if server.security.context() is None else "s"
        found = next(iter(listening.sockets)).getsockname()[1]
        say(f"Serving {', '.join(server.contracts)} at ws{secure}://{host}:{found}")
        if rest is not None:
            found = await leaving.enter_async_context(rest.serving(server, host))
            say(f"and at http{secure}://{host}:{found}/act")
        await stop.wait()


@dataclass(frozen=True, eq=False)
class Announced(Mapping[str, Contract]):
    """The contracts of what is served, as they are now, with the quality of the pictures that come."""

    contracts: Mapping[str, Contract]
    jpeg_quality: int

    def __getitem__(self, name: str) -> Contract:
        """Of the adapter of this name."""
        return replace(self.contracts[name], jpeg_quality=self.jpeg_quality)

    def __iter__(self) -> Iterator[str]:
        """The adapters' names."""
        return iter(self.contracts)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.contracts)


@dataclass(frozen=True, eq=False)
class Served:
    """What acts, by which contracts, and what may join it."""

    act: ActByName
    contracts: Mapping[str, Contract]
    adapters: Adapters
    folders: Mapping[str, Path]
    """Where the policies lie that are served from the beginning, by name."""

    def examined(self, *, unproved: bool) -> list[Finding]:
        """The probe before serving: each policy on the frames that lie in its folder.

        Raises:
            ValueError: there are none, and the user did not say `unproved`.
        """
        every = self.folders.items()
        found = [proof(_OneOf(self.act, name), self.contracts[name], folder, unproved=unproved) for name, folder in every]
        return [finding for findings in found for finding in findings]


@dataclass(frozen=True, eq=False)
class _OneOf:
    """A policy of those that are served."""

    act_by_name: ActByName
    name: str

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        return np.stack(self.act_by_name(observations, [self.name] * len(observations)))

    def reset(self) -> None: ...


@dataclass(frozen=True, eq=False)
class RunsUnder:
    """Adapters that a client may ask for: the finished runs in one folder, by the names of their own folders."""

    root: Path
    shared: SharedRuns
    unproved: bool
    """The user's word that a run may join which keeps no frames of its training."""

    def add(self, name: str) -> None:
        """Load it and hold it against what it did in training, or take it away again.

        Raises:
            ValueError: it is no plain name of a run in this folder, does something else, or `SharedRuns.add` refuses it.
            FileNotFoundError: the run is not finished.
        """
        known = sorted(path.name for path in self.root.iterdir() if (path / CONFIG_FILE).is_file())
        if name not in known:
            raise ValueError(f"adapter {name[:80]!r}: {self.root} holds {', '.join(known) or 'no run'}.")
        self.shared.add(name, self.root / name)
        try:
            self._prove(name)
        except Exception:
            self.shared.remove(name)
            raise

    def remove(self, name: str) -> None:
        """Forget it."""
        self.shared.remove(name)

    def _prove(self, name: str) -> None:
        policy, contract = self.shared.policies.policy(name), self.shared.contracts[name]
        for finding in proof(policy, contract, self.root / name, unproved=self.unproved):
            if not finding.passed:
                raise ValueError(f"adapter {name!r}: {finding.said}")


def _policies(cfg: DictConfig) -> Served:
    folders = [Path(folder) for folder in ([cfg.policy] if isinstance(cfg.policy, str) else cfg.policy)]
    if not folders:
        raise ValueError("no policy is named: policy=runs/a, or policy=[runs/a,runs/b] over one base.")
    device = device_of(cfg)
    if isinstance(cfg.policy, str):
        if cfg.adapters:
            raise ValueError(f"adapters={cfg.adapters}: write policy=[{cfg.policy}], so that others can join it over its base.")
        folder = chosen_run(cfg, named_folder(cfg.policy))
        policy = load_policy(folder, rows=cfg.rows, device=device, contract=stated_contract(cfg, folder)).policy
        return Served(alone(policy), {DEFAULT: policy.contract}, FixedAdapters(), {DEFAULT: folder})
    named = {folder.name: chosen_run(cfg, folder) for folder in folders}
    shared = load_shared(named, rows=cfg.rows, device=device)
    adapters = RunsUnder(Path(cfg.adapters), shared, cfg.unproved) if cfg.adapters else FixedAdapters()
    return Served(shared.policies.act, shared.contracts, adapters, named)
