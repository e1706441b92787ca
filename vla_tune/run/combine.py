"""Several finished runs over one base -> one checkpoint that holds what all of them learned."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig

from vla_tune.adapters.changes import Changes
from vla_tune.adapters.combination import combined
from vla_tune.adapters.merging import merged
from vla_tune.check.parity import ParityReport, parity
from vla_tune.export import ParityError
from vla_tune.models.base import Checkpoint
from vla_tune.models.files import new_folder
from vla_tune.printing import say
from vla_tune.run.folder import ADAPTER_FOLDER
from vla_tune.run.merge import base_of, dtype_of
from vla_tune.run.objects import build, load_policy
from vla_tune.run.recorded import recorded_observations
from vla_tune.run.stored import adapter_of, checkpoint_of, data_of
from vla_tune.schema import Contract

_ROWS = 16


def combine_runs(cfg: DictConfig) -> ParityReport:
    """What `scripts/combine.py` does.

    No live policy does what a combination does, so the gate compares the written folder with the same combination in float32:
    it measures rounding and files. What the combination is able to do, `scripts/eval.py` measures, task by task.

    Raises:
        ParityError: the written policy acts differently; nothing is written.
        ValueError: the runs do not belong together, or one cannot be combined.
    """
    runs = [Path(run) for run in cfg.runs]
    adapters, checkpoints = [adapter_of(run) for run in runs], [checkpoint_of(run) for run in runs]
    contract = _common_contract(runs)
    bases = {adapter.base for adapter in adapters}
    if len(bases) > 1 and cfg.base != "original":
        raise ValueError(f"the runs were trained on base={', '.join(sorted(bases))}: choose base=original.")
    hashes = [checkpoint.content_hash() for checkpoint in checkpoints]
    if len(set(hashes)) > 1:
        raise ValueError(f"{cfg.runs[0]} and {cfg.runs[hashes.index(next(h for h in hashes if h != hashes[0]))]} have other bases.")
    known = zip(adapters, runs, hashes, strict=True)
    changes = [adapter.changes(run / ADAPTER_FOLDER, base_hash=base_hash) for adapter, run, base_hash in known]
    factors = [1.0] * len(runs) if cfg.factors is None else [float(factor) for factor in cfg.factors]
    change = combined(changes, factors, build(cfg.combination))
    frames = [frame for run in runs for frame in recorded_observations(data_of(run), count=cfg.observations)]
    base, to = base_of(checkpoints[0], cfg.base), Path(cfg.to)
    with new_folder(to) as temporary, tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.exact.") as exact:
        _write(base, change, Path(exact), torch.float32, contract)
        _write(base, change, temporary, dtype_of(cfg.dtype, base), contract)
        policies = [load_policy(folder, rows=_ROWS, device="cpu").policy for folder in (Path(exact), temporary)]
        report = parity(policies[0], policies[1], frames, contract=contract, tolerance=build(cfg.tolerance))
        if not report.passed:
            raise ParityError(f"{report}\nNothing was written to {to}.")
    say(f"{report}\nWritten to {to}")
    Path(cfg.json).write_text(json.dumps(asdict(report) | {"passed": report.passed}, indent=1) + "\n")
    return report


def _write(base: Checkpoint, changes: Changes, folder: Path, dtype: torch.dtype, contract: Contract) -> None:
    base.write(folder, merged(base.weights(), changes, dtype=dtype), contract)


def _common_contract(runs: Sequence[Path]) -> Contract:
    """What all runs agree on.

    Raises:
        ValueError: they do not; the first difference is named.
    """
    contracts = [Contract.load(run) for run in runs]
    for run, contract in zip(runs[1:], contracts[1:], strict=True):
        if other := contract.differences(contracts[0], beside=("version",)):
            raise ValueError(
                f"{run} and {runs[0]} differ: {other[0]}. One policy keeps one contract: train them on the same robot, with the "
                "same statistics."
            )
    return contracts[0]
