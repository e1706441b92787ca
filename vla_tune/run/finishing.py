"""The end of a run: its policy is read back, tried, examined and timed; one model at a time is in memory."""

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from vla_tune.check.agreement import Recorded
from vla_tune.evaluation.plots import plot_log
from vla_tune.evaluation.report import read_results
from vla_tune.run.base import Base, measured_base
from vla_tune.run.check import CHECK_FILE, probed_run, recorded_in
from vla_tune.run.costs import costs
from vla_tune.run.folder import LOSS_PLOT, METRICS_FILE, RESULTS_FILE
from vla_tune.run.following import Following, Row, Run
from vla_tune.run.objects import Trained, device_of, load_policy
from vla_tune.run.stored import checkpoint_of
from vla_tune.run.timing import milliseconds, timed
from vla_tune.schema import Contract, write_json

_COSTS = "costs"


def finished(folder: Path) -> bool:
    """Whether nothing of a run's end is missing."""
    results = folder / RESULTS_FILE
    return results.is_file() and (folder / CHECK_FILE).is_file() and _COSTS in read_results(results)


def finish(run: Run, following: Following, *, training: Mapping[str, Any] | None, base: Base | None) -> None:
    """Add what is missing at the end of a run: its results first, which nothing that fails later takes away.

    Args:
        run: Its configuration, folder and data.
        following: How it is tried.
        training: What training came to; None where the results are written.
        base: What was measured before it learned; None measures it now.
    """
    free_memory()
    cfg, folder = run.cfg, run.folder
    recorded = recorded_in(run.data, count=cfg.evaluation.probed)
    known = base or _base_now(cfg, folder, recorded)
    rows = following.of_base(run, Contract.load(folder)) if training is not None else []
    free_memory()
    times = _of_trained(run, following, recorded, known, rows, training)
    free_memory()
    results = read_results(folder / RESULTS_FILE)
    if _COSTS not in results:
        write_json(folder / RESULTS_FILE, results | {_COSTS: costs(cfg, folder, recorded.seen[:1], known, times)})


def free_memory() -> None:
    """What is not used any more is gone before the next model comes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _of_trained(
    run: Run, following: Following, recorded: Recorded, base: Base, rows: list[Row], training: Mapping[str, Any] | None
) -> dict[str, float]:
    """All that asks the trained policy, which is read back once; milliseconds per chunk are returned."""
    cfg, folder = run.cfg, run.folder
    live = load_policy(folder, rows=cfg.evaluation.rows, device=device_of(cfg))
    if training is not None:
        _write_results(run, following, live, [*rows, *following.of_trained(run, live)], training)
    policy = replace(live.policy, rows=1)
    if not (folder / CHECK_FILE).is_file():
        probed_run(folder, policy, run.data, recorded, base.agreement, following.replayed(run))
    return milliseconds("live", policy, recorded.seen[:1], device=device_of(cfg)) if timed(base.parameters) else {}


def _write_results(run: Run, following: Following, live: Trained, rows: list[Row], training: Mapping[str, Any]) -> None:
    folder, unit = run.folder, live.policy.contract.embodiment.action_units[0]
    ordered = following.in_order(rows)
    plot_log(folder / METRICS_FILE, folder / LOSS_PLOT, error_unit=unit, title=folder.name)
    following.draw(run, live, ordered)
    write_json(folder / RESULTS_FILE, {"evaluation": [], "training": training} | {following.section: ordered})


def _base_now(cfg: DictConfig, folder: Path, recorded: Recorded) -> Base:
    checkpoint, device = checkpoint_of(folder), device_of(cfg)
    model = checkpoint.load(device=device)
    contract = Contract.load(folder)
    return measured_base(model, contract, checkpoint.interface(contract), recorded, device=device)
