"""What follows a training: how its policy is tried, which the group `evaluation` chooses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from omegaconf import DictConfig, OmegaConf

from vla_tune.check.finding import Finding
from vla_tune.check.replay import PROBE as REPLAY
from vla_tune.data.sources import Data
from vla_tune.data.transforms import Transform
from vla_tune.printing import say
from vla_tune.run.budget import Budget
from vla_tune.run.folder import read_config, run_around
from vla_tune.run.objects import Trained, build
from vla_tune.schema import Contract
from vla_tune.training.settings import check_whole

Row = dict[str, Any]
ORDER = ("base", "fine_tuned", "wrong_instruction", "blank_pictures")
"""Of the policies in a table."""
SIMULATION = "vla_tune.run.simulation.Simulation"
"""As a configuration names it."""
_BUILT_IN = "tabletop"
"""The suite of environments that a configuration names unless a user names another."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is to be tried."""

    cfg: DictConfig
    folder: Path
    read: Callable[[], Data]
    """What it learned from, which not every trial asks for."""
    budget: Budget = field(default_factory=Budget)
    """What its parts take."""

    @cached_property
    def data(self) -> Data:
        """The same, read once; what is to be recorded for it is recorded now."""
        with self.budget.part("record"):
            return self.read()


@runtime_checkable
class Trying(Protocol):
    """A way to try a policy."""

    def of_policy(self, run: Run, trained: Trained, *, name: str) -> dict[str, list[Row]]:
        """What a policy does that `scripts/eval.py` names, which need not be one that was just trained: rows by section.

        Raises:
            ValueError: it cannot be tried like this.
        """
        ...

    def number(self, results: Mapping[str, Any]) -> float:
        """What a sweep minimises."""
        ...


@runtime_checkable
class Following(Trying, Protocol):
    """A way to try what was just trained."""

    @property
    def section(self) -> str:
        """Under which name `results.json` holds its rows."""
        ...

    def before(self, cfg: DictConfig, data: Data, contract: Contract, pipeline: Transform) -> None:
        """Refuse, before the first step, what could not end well; say what will not be tried.

        Raises:
            ValueError: a setting is out of its range, or what the run is to be tried in does not fit.
        """
        ...

    def of_base(self, run: Run, contract: Contract) -> list[Row]:
        """What the base does, which is loaded and gone again; nothing where it cannot be tried."""
        ...

    def of_trained(self, run: Run, trained: Trained) -> list[Row]:
        """What the trained policy does."""
        ...

    def in_order(self, rows: Sequence[Row]) -> list[Row]:
        """As a table shows them."""
        ...

    def replayed(self, run: Run) -> Finding:
        """What recorded actions lead to in the environment, where there is one."""
        ...

    def draw(self, run: Run, trained: Trained, rows: Sequence[Row]) -> None:
        """Write pictures into the run's folder."""
        ...


@dataclass(frozen=True)
class Nothing:
    """What was trained is examined on recorded frames, as every run is, and tried nowhere (`Following`)."""

    section: str = "evaluation"

    def before(self, cfg: DictConfig, data: Data, contract: Contract, pipeline: Transform) -> None:
        """Looks at the settings that the examination needs."""
        check_common(cfg)
        tell_unused_environment(cfg, "none")

    def of_base(self, run: Run, contract: Contract) -> list[Row]:
        """Nothing."""
        return []

    def of_trained(self, run: Run, trained: Trained) -> list[Row]:
        """Nothing."""
        return []

    def of_policy(self, run: Run, trained: Trained, *, name: str) -> dict[str, list[Row]]:
        """Refused: nothing else is asked of `scripts/eval.py`."""
        raise ValueError("evaluation=none tries nothing: choose evaluation=simulation or held_out.")

    def in_order(self, rows: Sequence[Row]) -> list[Row]:
        """As they are."""
        return list(rows)

    def replayed(self, run: Run) -> Finding:
        """Not tried."""
        return not_replayed()

    def draw(self, run: Run, trained: Trained, rows: Sequence[Row]) -> None:
        """Nothing."""

    def number(self, results: Mapping[str, Any]) -> float:
        """The loss on held-out frames, or of the last step where none were held out."""
        training = results["training"]
        return float(training["validation"].get("validation/loss", training["last_loss"]))


def following_of(cfg: DictConfig) -> Following:
    """What the configuration chooses.

    Raises:
        ValueError: it chooses nothing.
    """
    if OmegaConf.is_missing(cfg.evaluation, "protocol"):
        raise ValueError("evaluation=settings is what the options share: choose evaluation=simulation, held_out or none.")
    if not isinstance(protocol := build(cfg.evaluation.protocol), Following):
        raise ValueError("evaluation=as_trained is for scripts/eval.py: choose evaluation=simulation, held_out or none.")
    return protocol


def check_common(cfg: DictConfig) -> None:
    """The numbers that every run needs when it ends.

    Raises:
        ValueError: one has a value that it cannot have.
    """
    for name, least in {"rows": 1, "probed": 1, "replayed": 0}.items():
        check_whole(f"evaluation.{name}", cfg.evaluation[name], least=least)


def names_an_environment(cfg: DictConfig) -> bool:
    """Whether a configuration names another environment than the built-in one."""
    return cfg.get("env") is not None and cfg.env.suite != _BUILT_IN


def tell_unused_environment(cfg: DictConfig, evaluation: str) -> None:
    """Say so where an environment was named for nothing."""
    if names_an_environment(cfg):
        say(f"The environment {cfg.env.suite!r} is not used by evaluation={evaluation}: evaluation=simulation tries it there.")


def place_of(policy: str) -> int:
    """Of a policy among those of a table; what is none of `ORDER` comes after them."""
    return ORDER.index(policy) if policy in ORDER else len(ORDER)


def not_replayed() -> Finding:
    """The finding of a replay where there is no environment."""
    return Finding(REPLAY, True, "not tried: there is no environment (evaluation=simulation, or env=<yours> for scripts/check.py)")


def in_simulation(folder: Path) -> bool:
    """Whether the run in a folder, or around it, was tried in simulation; runs of older versions were, and so are checkpoints.

    Its configuration is read as text: nothing is built from it.
    """
    run = run_around(folder)
    evaluation = {} if run is None else read_config(run).get("evaluation")
    protocol = evaluation.get("protocol") if isinstance(evaluation, dict) else None
    return not isinstance(protocol, dict) or protocol.get("_target_") == SIMULATION
