"""The training loop: fetch, update, validate, log, save.

A run is its folder: started again, it goes on from its last checkpoint, and ends with the same bits as if it had never stopped.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
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
from vla_tune.training.non_finite import NonFiniteLossError, OnNonFinite, Stop
from vla_tune.training.optim import parameter_groups, trainable_parameters
from vla_tune.training.peak_memory import watch_peak
from vla_tune.training.result import TrainingResult, result_of
from vla_tune.training.resumption import Exact, Resumption
from vla_tune.training.sampler import StepSampler
from vla_tune.training.settings import check_alone, check_settings
from vla_tune.training.state import Clock, Progress, TrainingState
from vla_tune.training.threads import sensible_threads, set_threads
from vla_tune.training.update import Objective, Skipped, Updated, update
from vla_tune.training.workers import WorkerDiedError

CHECKPOINTS = "checkpoints"


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
    on_non_finite: OnNonFinite = Stop(),  # noqa: B008 (without a state)
    resumption: Resumption = Exact(),  # noqa: B008
) -> TrainingResult:
    """Train the parameters of `model` that require a gradient for `steps` steps, resuming what lies in `run/checkpoints`.

    It trains where the model is. `optimizer` is called with parameter groups, `schedule` with the optimizer and `steps=`.
    `max_gradient_norm` may be infinite; each label weighs the same, over all `gradient_accumulation` batches of a step.
    `on_non_finite` decides about steps without a finite loss, `resumption` about settings that differ from a checkpoint's.

    Raises:
        NonFiniteLossError: from `on_non_finite`; names the episode and frame, and the last checkpoint stands.
        TrainingInterrupted: Ctrl-C or another of `STOPPING`, after saving and printing `resume_command`.
        WorkerDiedError: a worker was killed, after saving.
        ValueError: nothing is trainable, a number is out of its range, or the checkpoint in `run` was made with other settings.
    """
    check_settings(
        {
            "steps": steps,
            "batch_size": batch_size,
            "gradient_accumulation": gradient_accumulation,
            "max_gradient_norm": max_gradient_norm,
            "validate_every": validate_every,
            "save_every": save_every,
            "keep_last": keep_last,
            "workers": workers,
        },
        prefix="",
    )
    accelerator = _accelerator(precision, seed, device=next(model.parameters()).device)
    watch_peak(accelerator.device)
    objective = accelerator.prepare(Objective(model, head)).train()
    updater = optimizer(parameter_groups(model))
    rate = schedule(updater, steps=steps)
    sampler = StepSampler(size=len(samples), batch_size=batch_size, gradient_accumulation=gradient_accumulation, seed=seed)
    state = TrainingState(trainable_parameters(model), updater, rate, settings=_settings(sampler, precision, accelerator.device))
    folder = CheckpointFolder(run / CHECKPOINTS, keep_last)
    progress = state.restore(folder, steps=steps, resumption=resumption)
    held_out = validation or Validation([])
    batches = {"batch_size": batch_size, "pad_id": pad_id}
    with quick_bfloat16(accelerator.device), {"bf16": training_context(model), "fp32": nullcontext()}[precision]:
        progress = _loop(
            progress,
            feeding=feed(samples, sampler, start=progress.step, stop=steps, pad_id=pad_id, workers=workers),
            advance=partial(update, objective, updater, accelerator=accelerator, max_gradient_norm=max_gradient_norm),
            measure=partial(held_out.measure, model, head, **batches, device=accelerator.device, autocast=accelerator.autocast),
            on_non_finite=on_non_finite,
            schedule=rate,
            save=partial(state.save, folder),
            loggers=loggers,
            steps=steps,
            validate_every=validate_every,
            save_every=save_every,
            resume_command=resume_command,
        )
    return result_of(progress, model=model, device=accelerator.device, samples_per_step=sampler.samples_per_step)


def _loop(
    progress: Progress,
    *,
    feeding: AbstractContextManager[Iterator[Fetched]],
    advance: Callable[..., Updated],
    measure: Callable[[], dict[str, float]],
    on_non_finite: OnNonFinite,
    schedule: LRScheduler,
    save: Callable[[Progress], None],
    loggers: Sequence[Logger],
    steps: int,
    validate_every: int,
    save_every: int,
    resume_command: str,
) -> Progress:
    clock, saved = Clock(progress), progress.step
    with Interruption() as interruption, _closing(loggers):
        try:
            with feeding as fetches:
                for fetched in fetches:
                    step, start = progress.step + 1, time.perf_counter()
                    updated = _attempt(advance, fetched, step=step, on_non_finite=on_non_finite, skipped=progress.skipped)
                    rates = _rates(fetched, update_seconds=time.perf_counter() - start, schedule=schedule)
                    schedule.step()
                    validated = measure() if step % validate_every == 0 or step == steps else {}
                    progress = progress.advanced(loss=updated.loss, validation=validated, clock=clock)
                    for logger in loggers:
                        logger.log(step, updated.metrics | rates | validated)
                    if step % save_every == 0 or step in (steps, progress.best_step) or interruption.requested:
                        save(progress)
                        saved = step
                    if interruption.requested:
                        break
        except WorkerDiedError as died:  # between two steps: nothing is half done
            if progress.step > saved:
                save(progress)
            if not interruption.requested:
                raise _without_workers(died, progress, resume_command=resume_command) from None
        if progress.step < steps:
            raise _interrupted(progress, steps=steps, resume_command=resume_command)
    return progress


def _attempt(
    advance: Callable[..., Updated], fetched: Fetched, *, step: int, on_non_finite: OnNonFinite, skipped: int
) -> Updated | Skipped:
    try:
        return advance(fetched.batches, step=step)
    except NonFiniteLossError as error:
        on_non_finite(error, skipped=skipped)
        return Skipped()


def _settings(sampler: StepSampler, precision: str, device: torch.device) -> dict[str, Any]:
    """What fixes the order of the samples and the arithmetic."""
    return asdict(sampler) | {"precision": precision, "device": device.type}


def _interrupted(progress: Progress, *, steps: int, resume_command: str) -> TrainingInterrupted:
    done = f"step {progress.step} of {steps} is saved" if progress.step else "nothing was done yet"
    message = f"Interrupted; {done}. Continue with:\n  {resume_command}"
    with suppress(OSError):  # the terminal may be what went
        print(message, file=sys.stderr)
    return TrainingInterrupted(message)


def _without_workers(died: WorkerDiedError, progress: Progress, *, resume_command: str) -> WorkerDiedError:
    done = f"step {progress.step} is saved" if progress.step else "no step was done"
    remedy = "If memory (or /dev/shm) was short, take fewer training.workers."
    return WorkerDiedError(f"{died}; {done}. {remedy} Continue with: {resume_command}")


@contextmanager
def _closing(loggers: Sequence[Logger]) -> Iterator[None]:
    with ExitStack() as stack:
        for logger in loggers:
            stack.enter_context(closing(logger))
        yield


def _accelerator(precision: Literal["bf16", "fp32"], seed: int, *, device: torch.device) -> Accelerator:
    set_threads(sensible_threads())
    check_alone()
    accelerator = accelerator_for(precision, device)
    set_seed(seed)
    return accelerator


def _rates(fetched: Fetched, *, update_seconds: float, schedule: LRScheduler) -> dict[str, float]:
    seconds = fetched.seconds + update_seconds
    return {
        "train/learning_rate": float(schedule.get_last_lr()[0]),
        "train/samples_per_second": sum(map(len, fetched.batches)) / seconds,
        "train/data_share": fetched.seconds / seconds,
    }
