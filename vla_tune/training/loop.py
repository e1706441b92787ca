"""The training loop: fetch, update, validate, log, save.

A run is its folder: started again, it goes on from its last checkpoint, and ends with the same bits as if it had never stopped.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vla_tune.adapters import training_context
from vla_tune.heads.base import Head
from vla_tune.models.cpu_bfloat16 import quick_bfloat16
from vla_tune.training.accelerator import accelerator_for
from vla_tune.training.checkpoint import CheckpointFolder
from vla_tune.training.feed import Fetched, feed
from vla_tune.training.interruption import Interruption, TrainingInterrupted
from vla_tune.training.loggers import Logger
from vla_tune.training.metrics import Samples, Validation
from vla_tune.training.optim import parameter_groups, trainable_parameters
from vla_tune.training.peak_memory import peak_bytes, watch_peak
from vla_tune.training.sampler import StepSampler
from vla_tune.training.state import Clock, Progress, TrainingState
from vla_tune.training.threads import sensible_threads, set_threads
from vla_tune.training.update import Objective, Updated, update

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run came to; plain JSON data (`dataclasses.asdict`)."""

    steps: int
    samples: int
    """Seen, counting repetitions."""
    seconds: float
    cpu_seconds: float
    trainable_parameters: int
    peak_memory_bytes: int
    """CUDA's allocated maximum, or the resident maximum of the process."""
    samples_per_second: float
    """Of wall time, validations and saves included."""
    samples_per_cpu_second: float
    first_loss: float | None
    last_loss: float | None
    best_step: int | None
    best_validation_loss: float | None
    validation: dict[str, float]
    """Of the last validation."""


def train(
    *,
    model: nn.Module,
    head: Head,
    samples: Samples,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    schedule: Callable[..., LRScheduler],
    steps: int,
    batch_size: int,
    gradient_accumulation: int,
    max_gradient_norm: float,
    precision: Literal["bf16", "fp32"],
    seed: int,
    run: Path,
    loggers: Sequence[Logger],
    validate_every: int,
    save_every: int,
    keep_last: int,
    pad_id: int,
    resume_command: str,
    validation: Validation | None = None,
    workers: int = 0,
) -> TrainingResult:
    """Train the parameters of `model` that require a gradient for `steps` steps, resuming what lies in `run/checkpoints`.

    It trains where the model is. `optimizer` is called with parameter groups, `schedule` with the optimizer and `steps=`.
    `max_gradient_norm` may be infinite; each label weighs the same, over all `gradient_accumulation` batches of a step.

    Raises:
        NonFiniteLossError: names the episode and frame; the last checkpoint stands.
        TrainingInterrupted: Ctrl-C or SIGTERM, after saving and printing `resume_command`.
        ValueError: nothing is trainable, or the checkpoint in `run` was made with other settings.
    """
    accelerator = _accelerator(precision, seed, device=next(model.parameters()).device)
    watch_peak(accelerator.device)
    objective = accelerator.prepare(Objective(model, head)).train()
    updater = optimizer(parameter_groups(model))
    rate = schedule(updater, steps=steps)
    sampler = StepSampler(size=len(samples), batch_size=batch_size, gradient_accumulation=gradient_accumulation, seed=seed)
    state = TrainingState(trainable_parameters(model), updater, rate, settings=asdict(sampler) | {"precision": precision})
    folder = CheckpointFolder(run / CHECKPOINTS, keep_last)
    progress = state.restore(folder, steps=steps)
    held_out = validation or Validation([])
    batches = {"batch_size": batch_size, "pad_id": pad_id}
    with quick_bfloat16(accelerator.device), {"bf16": training_context(model), "fp32": nullcontext()}[precision]:
        progress = _loop(
            progress,
            fetches=feed(samples, sampler, start=progress.step, stop=steps, pad_id=pad_id, workers=workers),
            advance=partial(update, objective, updater, accelerator=accelerator, max_gradient_norm=max_gradient_norm),
            measure=partial(held_out.measure, model, head, **batches, device=accelerator.device, autocast=accelerator.autocast),
            schedule=rate,
            save=partial(state.save, folder),
            loggers=loggers,
            steps=steps,
            validate_every=validate_every,
            save_every=save_every,
            resume_command=resume_command,
        )
    return _result(progress, model=model, device=accelerator.device, samples_per_step=sampler.samples_per_step)


def _loop(
    progress: Progress,
    *,
    fetches: Iterator[Fetched],
    advance: Callable[..., Updated],
    measure: Callable[[], dict[str, float]],
    schedule: LRScheduler,
    save: Callable[[Progress], None],
    loggers: Sequence[Logger],
    steps: int,
    validate_every: int,
    save_every: int,
    resume_command: str,
) -> Progress:
    clock = Clock(progress)
    with Interruption() as interruption, _closing(loggers):
        for fetched in fetches:
            step, start = progress.step + 1, time.perf_counter()
            updated = advance(fetched.batches, step=step)
            rates = _rates(fetched, update_seconds=time.perf_counter() - start, schedule=schedule)
            schedule.step()
            validated = measure() if step % validate_every == 0 or step == steps else {}
            progress = progress.advanced(loss=updated.loss, validation=validated, clock=clock)
            for logger in loggers:
                logger.log(step, updated.metrics | rates | validated)
            if step % save_every == 0 or step in (steps, progress.best_step) or interruption.requested:
                save(progress)
            if interruption.requested:
                break
    if progress.step < steps:
        message = f"Interrupted; step {progress.step} of {steps} is saved. Continue with:\n  {resume_command}"
        print(message, file=sys.stderr)
        raise TrainingInterrupted(message)
    return progress


@contextmanager
def _closing(loggers: Sequence[Logger]) -> Iterator[None]:
    with ExitStack() as stack:
        for logger in loggers:
            stack.enter_context(closing(logger))
        yield


def _accelerator(precision: Literal["bf16", "fp32"], seed: int, *, device: torch.device) -> Accelerator:
    set_threads(sensible_threads())
    accelerator = accelerator_for(precision, device)
    if accelerator.num_processes > 1:
        raise ValueError(f"{accelerator.num_processes} processes: one process trains on one device; start it without a launcher.")
    set_seed(seed)
    return accelerator


def _rates(fetched: Fetched, *, update_seconds: float, schedule: LRScheduler) -> dict[str, float]:
    seconds = fetched.seconds + update_seconds
    return {
        "train/learning_rate": float(schedule.get_last_lr()[0]),
        "train/samples_per_second": sum(map(len, fetched.batches)) / seconds,
        "train/data_share": fetched.seconds / seconds,
    }


def _result(progress: Progress, *, model: nn.Module, device: torch.device, samples_per_step: int) -> TrainingResult:
    samples = progress.step * samples_per_step
    return TrainingResult(
        steps=progress.step,
        samples=samples,
        samples_per_second=samples / progress.seconds,
        samples_per_cpu_second=samples / progress.cpu_seconds,
        seconds=progress.seconds,
        cpu_seconds=progress.cpu_seconds,
        trainable_parameters=sum(parameter.numel() for parameter in trainable_parameters(model).values()),
        peak_memory_bytes=peak_bytes(device),
        first_loss=progress.first_loss,
        last_loss=progress.last_loss,
        best_step=progress.best_step,
        best_validation_loss=progress.best_loss,
        validation=progress.validation,
    )
