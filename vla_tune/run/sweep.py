"""One table for a sweep: the rows of all its jobs, as text, JSON and a picture."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vla_tune.evaluation.comparison import base_rows, compared, comparison_markdown, plot_comparison
from vla_tune.evaluation.plots import plot_sweep
from vla_tune.evaluation.report import read_results
from vla_tune.printing import say
from vla_tune.run.evaluate import print_tables
from vla_tune.run.folder import RESULTS_FILE, folder_name
from vla_tune.schema import write_json, write_whole

_VARIABLE = "VLA_TUNE_SWEEP"
"""Names the sweep's folder in its jobs, which a launcher may start in other processes."""


class SweepTable(Callback):
    """Gathers `results.json` of every finished job when a sweep ends (a Hydra callback).

    Hydra only warns of what a callback raises: a table that misses a job would look whole, so a failure ends the process.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the folder: named by the sweep's overrides, so that a rerun finds it."""
        folder = _folder(config)
        os.environ[_VARIABLE] = str(folder)
        with _ending(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for left in (*folder.glob("*.job"), *folder.glob(".*.partial")):
                left.unlink()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note where the job's results are, with its overrides."""
        if _VARIABLE not in os.environ or job_return.status is not JobStatus.COMPLETED:
            return
        folder = Path(os.environ[_VARIABLE])
        lines = [config.hydra.runtime.output_dir, *config.hydra.overrides.task]
        with _ending(folder):
            write_whole(folder / f"{config.hydra.job.num:04d}.job", "\n".join(lines) + "\n")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write and print the table."""
        folder = Path(os.environ.pop(_VARIABLE))
        with _ending(folder):
            jobs = [job.read_text().splitlines() for job in sorted(folder.glob("*.job"))]
            if not jobs:
                return
            (_compare if _named(config) and _rows(jobs, "evaluation") else _list)(jobs, folder)
            say(f"Written to {folder}")


@contextmanager
def _ending(folder: Path) -> Iterator[None]:
    """What the disk refuses ends the process with one line: what the jobs came to is kept."""
    try:
        yield
    except OSError as error:
        said = " ".join(str(error).split())
        print(
            f"error: the table of the sweep could not be written to {folder} ({said}). What its jobs came to is kept: mend this, "
            "and give the same command again.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def _list(jobs: Sequence[Sequence[str]], folder: Path) -> None:
    """A sweep's table and picture: the rows of its jobs."""
    results = {section: _rows(jobs, section) for section in ("evaluation", "open_loop")}
    write_json(folder / RESULTS_FILE, results | {"training": {}})
    if rows := [row for row in results["evaluation"] if row["policy"] != "base"]:
        plot_sweep(rows, folder / "success.png", column="job", label="overrides")
    print_tables(results, title="Sweep")


def _named(config: DictConfig) -> str | None:
    """The option of `sweep=` that the sweep is, if it is one."""
    return config.hydra.runtime.choices.get("sweep")


def _folder(config: DictConfig) -> Path:
    name = _named(config) or folder_name(config.hydra.job.name, *config.hydra.overrides.task)
    return Path(config.hydra.sweep.dir) / "sweeps" / name


def _compare(jobs: Sequence[Sequence[str]], folder: Path) -> None:
    """A named sweep's table and picture: one row per choice, over its seeds."""
    choice, runs = _choices(jobs)
    rows = compared(runs)
    rows = [*base_rows(next(iter(runs.values()))[0]), *rows]
    text = comparison_markdown(rows, choice=choice)
    write_whole(folder / "table.md", text)
    write_json(folder / RESULTS_FILE, {"choice": choice, "rows": rows})
    plot_comparison(rows, folder / "plot.png", choice=choice, title=folder.name)
    say(text)


def _choices(jobs: Sequence[Sequence[str]]) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """What differs between the jobs beside the seed, and the results of each choice; a lone key is not repeated in every row."""
    common = _common(jobs)
    runs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for output, *overrides in jobs:
        own = tuple(override for override in overrides if override not in common and not override.startswith("seed="))
        runs.setdefault(own, []).append(read_results(Path(output) / RESULTS_FILE))
    keys = dict.fromkeys(override.partition("=")[0] for own in runs for override in own)
    if len(keys) == 1:
        return next(iter(keys)), {", ".join(override.partition("=")[2] for override in own): found for own, found in runs.items()}
    return "choice", {", ".join(own) or "default": found for own, found in runs.items()}


def _common(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The overrides of every job."""
    return set.intersection(*(set(overrides) for _, *overrides in jobs)) if len(jobs) > 1 else set()


def _rows(jobs: Sequence[Sequence[str]], section: str) -> list[dict[str, Any]]:
    """The rows of every job, named by the overrides in which the jobs differ; a job is its output folder and its overrides."""
    common = _common(jobs)
    rows = []
    for output, *overrides in jobs:
        name = ", ".join(override for override in overrides if override not in common)
        rows += [{"job": name} | row for row in read_results(Path(output) / RESULTS_FILE).get(section, [])]
    return rows
