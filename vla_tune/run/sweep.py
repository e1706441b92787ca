"""One table for a sweep: the rows of all its jobs, as text, JSON and a picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from vla_tune.evaluation.plots import plot_sweep
from vla_tune.evaluation.report import read_results, write_results
from vla_tune.run.evaluate import print_rows
from vla_tune.run.folder import RESULTS_FILE, folder_name

_VARIABLE = "VLA_TUNE_SWEEP"
"""Names the sweep's folder in its jobs, which a launcher may start in other processes."""


class SweepTable(Callback):
    """Gathers `results.json` of every finished job when a sweep ends (a Hydra callback)."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the folder: named by the sweep's overrides, so that a rerun finds it."""
        folder = Path(config.hydra.sweep.dir) / "sweeps" / folder_name(config.hydra.job.name, *config.hydra.overrides.task)[:180]
        os.environ[_VARIABLE] = str(folder)
        for job in folder.glob("*.job"):
            job.unlink()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note where the job's results are, with its overrides."""
        if _VARIABLE not in os.environ or job_return.status is not JobStatus.COMPLETED:
            return
        folder = Path(os.environ[_VARIABLE])
        folder.mkdir(parents=True, exist_ok=True)
        lines = [config.hydra.runtime.output_dir, *config.hydra.overrides.task]
        (folder / f"{config.hydra.job.num:04d}.job").write_text("\n".join(lines) + "\n")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write and print the table."""
        folder = Path(os.environ.pop(_VARIABLE))
        rows = _rows([job.read_text().splitlines() for job in sorted(folder.glob("*.job"))])
        if not rows:
            return
        write_results(folder / RESULTS_FILE, evaluation=rows, training={})
        plot_sweep([row for row in rows if row["policy"] != "base"], folder / "success.png", column="job", label="overrides")
        print_rows(rows, title="Sweep")
        Console().print(f"Written to {folder}", highlight=False, soft_wrap=True)


def _rows(jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The rows of every job, named by the overrides in which the jobs differ; a job is its output folder and its overrides."""
    common = set.intersection(*(set(overrides) for _, *overrides in jobs)) if len(jobs) > 1 else set()
    rows = []
    for output, *overrides in jobs:
        name = ", ".join(override for override in overrides if override not in common)
        rows += [{"job": name} | row for row in read_results(Path(output) / RESULTS_FILE)["evaluation"]]
    return rows
