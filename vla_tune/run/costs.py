"""What an adapter costs where it is used: bytes, and time per action beside the base and merged into it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from omegaconf import DictConfig

from vla_tune.adapters.changes import Changes
from vla_tune.adapters.merging import merged
from vla_tune.models.base import Checkpoint
from vla_tune.policy import LocalPolicy
from vla_tune.printing import say
from vla_tune.run.base import Base
from vla_tune.run.folder import ADAPTER_FOLDER
from vla_tune.run.objects import build, device_of, policy_of
from vla_tune.run.stored import adapter_of, checkpoint_in, checkpoint_of
from vla_tune.run.timing import LARGEST_TIMED, milliseconds, timed
from vla_tune.schema import CONTRACT_FILE, Contract, Observation


def costs(cfg: DictConfig, folder: Path, seen: Sequence[Observation], base: Base, live: dict[str, float]) -> dict[str, Any]:
    """Bytes of the adapter of a finished training, parameters of the base, whether it can be merged, and milliseconds per chunk.

    The times are medians for one observation, `seen`, each measured while its policy was alone in memory, the merged one's here.
    From 1e9 parameters on there are none, and that is told.
    """
    checkpoint, adapter, adapter_folder = build(cfg.model), build(cfg.adapter), folder / ADAPTER_FOLDER
    reason, times = None, {**base.milliseconds, **live}
    try:
        changes = adapter.changes(adapter_folder, base_hash=checkpoint.content_hash())
    except ValueError as error:
        reason = str(error)
    else:
        times |= _merged_times(cfg, folder, checkpoint, changes, seen) if timed(base.parameters) else {}
    if not timed(base.parameters):
        said = f"Times per action are not measured in a run of {LARGEST_TIMED:,} parameters and more: scripts/bench.py does."
        say(said)
    return {
        "base_parameters": base.parameters,
        "adapter_bytes": sum(path.stat().st_size for path in adapter_folder.iterdir() if path.name != CONTRACT_FILE),
        "not_mergeable": reason,
        "milliseconds": times,
    }


def _merged_times(
    cfg: DictConfig, folder: Path, checkpoint: Checkpoint, changes: Changes, seen: Sequence[Observation]
) -> dict[str, float]:
    device = device_of(cfg)
    policy = merged_policy(checkpoint, changes, Contract.load(folder), beside=folder, device=device)
    return milliseconds("merged", policy, seen, device=device)


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
        return policy_of(written.load(device=device), contract, written.interface(contract), rows=1, device=device)
    finally:
        shutil.rmtree(temporary)
