"""What an adapter costs where it is used: bytes, and time per action beside the base and merged into it."""

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from omegaconf import DictConfig

from vla_tune.adapters.changes import Changes
from vla_tune.adapters.merging import merged
from vla_tune.models.base import Checkpoint
from vla_tune.models.precision import num_parameters
from vla_tune.policy import LocalPolicy, Policy
from vla_tune.run.folder import ADAPTER_FOLDER
from vla_tune.run.objects import build, checkpoint_in, device_of, load_policy, policy_of
from vla_tune.run.recorded import recorded_observations
from vla_tune.run.stored import adapter_of, checkpoint_of
from vla_tune.schema import CONTRACT_FILE, Contract

_ROUNDS = 15


def costs(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Bytes of the adapter of a finished training, parameters of the base, whether it can be merged, and milliseconds per chunk.

    The times are of one observation at a time, medians of alternating calls: CPU time on a CPU, where other work may run beside.
    """
    checkpoint, adapter, adapter_folder = build(cfg.model), build(cfg.adapter), folder / ADAPTER_FOLDER
    device, contract = device_of(cfg), Contract.load(folder)
    base = checkpoint.load(device=device)
    policies: dict[str, Policy] = {
        "base": policy_of(base, contract, checkpoint.processor, rows=1, device=device),
        "live": load_policy(folder, rows=1, device=device).policy,
    }
    reason = None
    try:
        changes = adapter.changes(adapter_folder, base_hash=checkpoint.content_hash())
    except ValueError as error:
        reason = str(error)
    else:
        policies["merged"] = merged_policy(checkpoint, changes, contract, beside=folder, device=device)
    return {
        "base_parameters": num_parameters(base),
        "adapter_bytes": sum(path.stat().st_size for path in adapter_folder.iterdir() if path.name != CONTRACT_FILE),
        "not_mergeable": reason,
        "milliseconds": milliseconds(policies, recorded_observations(build(cfg.data), count=1), device=device),
    }


def milliseconds(policies: Mapping[str, Policy], observations: Sequence[Any], *, device: str) -> dict[str, float]:
    """Median time of a call to `act`, the policies taking turns."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(_ROUNDS):
        for name, policy in policies.items():
            start = clock()
            policy.act(observations)
            times[name].append(1000 * (clock() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def merged_run(run: Path, *, device: str) -> LocalPolicy:
    """The merged policy of a finished run, by way of a folder that does not stay.

    Raises:
        ValueError: the adapter cannot be merged.
    """
    checkpoint = checkpoint_of(run)
    changes = adapter_of(run).changes(run / ADAPTER_FOLDER, base_hash=checkpoint.content_hash())
    return merged_policy(checkpoint, changes, Contract.load(run), beside=run, device=device)


def merged_policy(checkpoint: Checkpoint, changes: Changes, contract: Contract, *, beside: Path, device: str) -> LocalPolicy:
    """The merged policy, by way of a folder that does not stay."""
    temporary = Path(mkdtemp(dir=beside))
    try:
        checkpoint.write(temporary, merged(checkpoint.weights(), changes, dtype=torch.bfloat16), contract)
        written = checkpoint_in(temporary)
        return policy_of(written.load(device=device), contract, written.processor, rows=1, device=device)
    finally:
        shutil.rmtree(temporary)
