"""Everything that a run carries from step to step, saved and restored bit for bit."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vla_tune.training.checkpoint import TRAINED, Checkpoint, CheckpointFolder, restore_parameters
from vla_tune.training.optimizer_state import hyperparameter_differences, optimizer_state, restore_optimizer
from vla_tune.training.random_state import capture_random_state, restore_random_state
from vla_tune.training.resumption import Resumption


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come, over all its sessions."""

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    best_step: int | None = None
    best_loss: float | None = None
    """The lowest validation loss."""
    validation: dict[str, float] = field(default_factory=dict)
    """The newest."""
    skipped: int = 0
    """Steps that were left out, because their loss or gradient was not finite."""

    unmeasured: dict[str, float] | None = None
    """What the last step would have logged, if a stop cut its validation short."""

    def advanced(self, loss: float | None, clock: "Clock") -> "Progress":
        """One step later; without a `loss` it was left out."""
        return replace(
            self,
            step=self.step + 1,
            seconds=clock.seconds,
            cpu_seconds=clock.cpu_seconds,
            first_loss=loss if self.first_loss is None else self.first_loss,
            last_loss=self.last_loss if loss is None else loss,
            skipped=self.skipped + (loss is None),
        )

    def measured(self, validation: dict[str, float], clock: "Clock") -> "Progress":
        """The same step, validated, where that was due."""
        times = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds}
        following = replace(self, unmeasured=None, validation=validation or self.validation, **times)
        found = validation.get("validation/loss")
        if found is None or (self.best_loss is not None and found >= self.best_loss):
            return following
        return replace(following, best_step=self.step, best_loss=found)


class Clock:
    """Wall and CPU seconds of this session, on top of those of the sessions before."""

    def __init__(self, progress: Progress) -> None:
        self._wall = time.perf_counter() - progress.seconds
        self._cpu = time.process_time() - progress.cpu_seconds

    @property
    def seconds(self) -> float:
        """Wall time."""
        return time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """Over all threads."""
        return time.process_time() - self._cpu


@dataclass(frozen=True)
class TrainingState:
    """The parts of a run that change."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: Optimizer
    schedule: LRScheduler
    settings: Mapping[str, Any]
    """What fixes the order of the samples and the arithmetic: a resumed run must agree."""

    def save(self, folder: CheckpointFolder, progress: Progress) -> None:
        """Write a checkpoint of this moment."""
        tensors, record = optimizer_state(self.optimizer, self.parameters)
        state = {
            "best_step": progress.best_step,
            "progress": asdict(progress),
            "settings": dict(self.settings),
            "random": capture_random_state(),
            "threads": torch.get_num_threads(),
        }
        folder.save(
            Checkpoint(
                step=progress.step,
                trained=self.parameters,
                optimizer_tensors=tensors,
                optimizer_record=record,
                state=state,
            )
        )

    def restore(self, folder: CheckpointFolder, *, steps: int, resumption: Resumption) -> Progress:
        """Go back to the last checkpoint in `folder`, made on the way to `steps`; without one, this is the start.

        What was learned and counted comes from the checkpoint; learning rate, schedule, threads and device are those of now.

        Raises:
            ValueError: the checkpoint is damaged, or `resumption` refuses what differs.
        """
        last = folder.last()
        if last is None:
            return Progress()
        done = folder.steps()[-1]
        if done > steps:
            raise ValueError(f"{done} steps were done in {folder.path}, more than steps={steps}: choose another run=<folder>.")
        saved = folder.load(done)
        differences = _differences(saved.state["settings"], self.settings)
        restore_parameters(self.parameters, saved.trained, source=str(last / TRAINED))
        restore_optimizer(self.optimizer, self.parameters, tensors=saved.optimizer_tensors, record=saved.optimizer_record)
        _wind(self.schedule, done)
        differences += hyperparameter_differences(self.optimizer, saved.optimizer_record)
        differences += _rate_difference(self.optimizer, saved.optimizer_record, done)
        resumption.settle(differences, source=last, threads=saved.state["threads"])
        restore_random_state(saved.state["random"])
        return Progress(**saved.state["progress"])


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys that an older version did not save are taken on trust."""
    return [f"{key} was {saved[key]} and is {value}" for key, value in now.items() if key in saved and saved[key] != value]


def _wind(schedule: LRScheduler, steps: int) -> None:
    """Bring a fresh schedule to where it stands after `steps` steps, whatever kind it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")  # torch expects a step of the optimizer before each
        for _ in range(steps):
            schedule.step()


def _rate_difference(optimizer: Optimizer, record: Mapping[str, Any], step: int) -> list[str]:
    before, now = ([group["lr"] for group in groups] for groups in (record["groups"], optimizer.param_groups))
    return [] if before == now else [f"the learning rate after step {step} was {before[0]:.6g} and is {now[0]:.6g}"]
