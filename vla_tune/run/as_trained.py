"""A policy is tried as the run was in which it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_tune.evaluation.environments import Vectorize, in_processes, in_turn
from vla_tune.run.folder import read_config, run_around
from vla_tune.run.following import Row, Run, Trying, in_simulation, names_an_environment
from vla_tune.run.held_out import HeldOut
from vla_tune.run.objects import Trained
from vla_tune.run.simulation import Simulation

_IN_PROCESSES = [f"vla_tune.evaluation.environments.{name}" for name in ("in_processes", "InProcesses")]
"""As the folder of a run names it."""


def environments_of(run: str | None) -> Vectorize:
    """Where environments live when a training run is tried: in processes of their own or, as where there is none, in this one."""
    folder = None if run is None else run_around(Path(run))
    said = {} if folder is None else read_config(folder).get("environments")
    name = said.get("_target_") if isinstance(said, dict) else None
    return in_processes if name in _IN_PROCESSES else in_turn


@dataclass(frozen=True)
class AsTrained:
    """In simulation where the run was, or where an environment of the user's is named; else on held-out episodes (`Trying`)."""

    def of_policy(self, run: Run, trained: Trained, *, name: str) -> dict[str, list[Row]]:
        """As the run's configuration says, which names the way and builds nothing."""
        way: Trying = Simulation() if names_an_environment(run.cfg) or in_simulation(run.folder) else HeldOut()
        return way.of_policy(run, trained, name=name)

    def number(self, results: Mapping[str, Any]) -> float:
        """That of the way in which it was tried."""
        return next(way.number(results) for way in (Simulation(), HeldOut()) if results.get(way.section))
