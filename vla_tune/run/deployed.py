"""A policy as it was written for a robot: read back, and served, on recorded frames."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_tune.check.paths import PathReport, compare_paths, differing_inputs
from vla_tune.data import build_pipeline
from vla_tune.data.pipeline import ModelInputs
from vla_tune.data.recorded import observation_in
from vla_tune.policy import LocalPolicy
from vla_tune.run.objects import load_policy
from vla_tune.schema import Contract
from vla_tune.serving.background import serving_in_background
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.metrics import Metrics
from vla_tune.serving.security import Loopback
from vla_tune.serving.server import PolicyServer
from vla_tune.serving.worker import Worker, alone

CARD_FILE, PARITY_FILE = "README.md", "parity.json"
_ALLOWED = 1e-4
"""Of an action's range, between a policy here and the same one behind a server: the same arithmetic in another thread."""


def deployed_paths(folder: Path, contract: Contract, frames: Sequence[dict[str, Any]], inputs: ModelInputs) -> PathReport:
    """Recorded frames through training's pipeline, the policy read back from `folder`, and the same one served.

    Args:
        folder: Where it was written.
        contract: Its own.
        frames: Of its robot, with actions.
        inputs: What the model's part of it says, read by the base or the published policy.
    """
    seen = [observation_in(frame, contract.embodiment) for frame in frames]
    local = load_policy(folder, rows=1, device="cpu").policy
    differing = differing_inputs(build_pipeline(contract, inputs), local.pipeline, frames, seen, contract.embodiment)
    with _served(local, contract) as remote:
        return compare_paths(local, remote, seen, contract=contract, differing=differing, allowed=_ALLOWED)


def describe(folder: Path, card: str, *, checks: Sequence[str], step: int | None) -> None:
    """Write the model card, and what was checked, for programs."""
    (folder / CARD_FILE).write_text(card)
    (folder / PARITY_FILE).write_text(json.dumps({"checks": checks, "step": step}, indent=1) + "\n")


@contextmanager
def _served(policy: LocalPolicy, contract: Contract) -> Iterator[RemotePolicy]:
    server = PolicyServer(Worker(alone(policy), rows=1, seconds=600.0), {"default": contract}, Loopback(), Metrics())
    with serving_in_background(server, "localhost", 0) as port:
        remote = RemotePolicy(f"ws://localhost:{port}", contract=contract, timeout=600.0)
        try:
            yield remote
        finally:
            remote.close()
