"""Everything that a run carries from step to step, saved and restored bit for bit."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vla_tune.training.checkpoint import TRAINED, Checkpoint, CheckpointFolder, restore_parameters
from vla_tune.training.optimizer_state import optimizer_state, restore_optimizer
from vla_tune.training.random_state import capture_random_state, restore_random_state
from vla_tune.training.threads import set_threads


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

    def advanced(self, *, loss: float, validation: Mapping[str, float], clock: "Clock") -> "Progress":
        """One step later."""
        following = replace(
            self,
            step=self.step + 1,
            seconds=clock.seconds,
            cpu_seconds=clock.cpu_seconds,
            first_loss=loss if self.first_loss is None else self.first_loss,
            last_loss=loss,
            validation=dict(validation) or self.validation,
        )
        found = validation.get("validation/loss")
        if found is None or (self.best_loss is not None and found >= self.best_loss):
            return following
        return replace(following, best_step=following.step, best_loss=found)


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
            "schedule": self.schedule.state_dict(),
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

    def restore(self, folder: CheckpointFolder, *, steps: int) -> Progress:
        """Go back to the last checkpoint in `folder`, made on the way to `steps`; without one, this is the start.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to a run with other settings.
        """
        last = folder.last()
        if last is None:
            return Progress()
        done = folder.steps()[-1]
        if done > steps:
            raise ValueError(f"{done} steps were done in {folder.path}, more than steps={steps}: choose another run=<folder>.")
        saved = folder.load(done)
        self._check_settings(saved.state["settings"], str(last))
        restore_parameters(self.parameters, saved.trained, source=str(last / TRAINED))
        restore_optimizer(self.optimizer, self.parameters, tensors=saved.optimizer_tensors, record=saved.optimizer_record)
        self.schedule.load_state_dict(dict(saved.state["schedule"]))
        restore_random_state(saved.state["random"])
        set_threads(saved.state["threads"])  # another number of threads sums in another order
        return Progress(**saved.state["progress"])

    def _check_settings(self, saved: Mapping[str, Any], source: str) -> None:
        changed = {key: (saved.get(key), value) for key, value in self.settings.items() if saved.get(key) != value}
        if changed:
            differences = ", ".join(f"{key} was {was} and is {now}" for key, (was, now) in changed.items())
            raise ValueError(f"{source} belongs to another run: {differences}. Put them back, or choose another run=<folder>.")
