"""Measurements of speed, with what they were made on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vla_tune.bench.machine import describe_machine
from vla_tune.bench.measure import Reporting, Row, Suite
from vla_tune.bench.table import machine_text, speed_table
from vla_tune.policy import LocalPolicy
from vla_tune.printing import say, show
from vla_tune.run.costs import merged_run
from vla_tune.run.objects import build, device_of, load_base, load_policy
from vla_tune.run.recorded import recorded_observations
from vla_tune.run.shared import load_shared
from vla_tune.run.stored import data_of
from vla_tune.schema import write_json
from vla_tune.training.threads import sensible_threads, set_threads


def bench(cfg: DictConfig) -> list[Row]:
    """What `scripts/bench.py` does: measure `cfg.suite`, print the table and write it to `cfg.to` and `cfg.json`."""
    set_threads(cfg.threads or sensible_threads())
    cfg.device = device_of(cfg)
    suite: Suite = build(cfg.suite)
    machine = describe_machine()
    rows = suite.rows()
    record = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "rows": rows}
    paths = [Path(path) for path in (cfg.to, cfg.json) if path]
    for path in paths:
        write_json(path, record)
    if isinstance(suite, Reporting):
        say(suite.report(rows))
    else:
        show(speed_table(rows, title="Median of the repetitions, and half their range"))
    say(f"{machine_text(machine)}\nWritten to {', '.join(map(str, paths))}")
    return rows


def acting_suite(runs: Sequence[str], *, device: str, **options: Any) -> Suite:
    """The policies of `runs`, one observation at a time, for `conf/suite`."""
    from vla_tune.bench.acting_suite import ActingSuite  # gymnasium is not needed by the other suites

    return ActingSuite(policies={Path(run).name: partial(policy_in, run, rows=1, device=device) for run in runs}, **options)


def adapters_suite(runs: Sequence[str], *, device: str, observations: int, **options: Any) -> Suite:
    """The first of `runs` alone, and all of them over their base, for `conf/suite`.

    Raises:
        ValueError: no run is named.
    """
    from vla_tune.bench.adapters_suite import AdaptersSuite

    if not runs:
        raise ValueError("there is no adapter to measure: name finished runs over one base, e.g. 'suite.runs=[runs/a,runs/b]'.")
    folders = {Path(run).name: Path(run) for run in runs}
    first = Path(runs[0])
    return AdaptersSuite(
        alone={
            "base": partial(load_base, first, rows=1, device=device),
            "merged": partial(merged_run, first, device=device),
            "live": partial(policy_in, runs[0], rows=1, device=device),
        },
        shared=lambda rows: load_shared(folders, rows=rows, device=device).policies,
        observations=lambda: recorded_observations(data_of(first), count=observations),
        **options,
    )


def policy_in(checkpoint: str, *, rows: int, device: str) -> LocalPolicy:
    """The policy in a checkpoint folder or a run, for `conf/suite`."""
    return load_policy(Path(checkpoint), rows=rows, device=device).policy
