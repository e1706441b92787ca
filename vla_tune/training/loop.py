"""Training: what a run is made of, put together; `session` is the loop.

A run is its folder: started again, it goes on from its last checkpoint, and ends with the same bits as if it had never stopped.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
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
from vla_tune.models.base import ActionModel
from vla_tune.models.cpu_bfloat16 import quick_bfloat16
from vla_tune.models.forward import Forward
from vla_tune.training.accelerator import accelerator_for
from vla_tune.training.average import Average, Last, followed, inside
from vla_tune.training.checkpoint import CheckpointFolder
from vla_tune.training.feed import StepSampler, feed
from vla_tune.training.loggers import Logger
from vla_tune.training.metrics import Samples, Validation
from vla_tune.training.non_finite import OnNonFinite, Stop
from vla_tune.training.optim import parameter_groups, trainable_parameters
from vla_tune.training.peak_memory import watch_peak
from vla_tune.training.result import TrainingResult, result_of
from vla_tune.training.resumption import Exact, Resumption
from vla_tune.training.session import Session
from vla_tune.training.settings import check_alone
from vla_tune.training.state import TrainingState
from vla_tune.training.threads import sensible_threads, set_threads
from vla_tune.training.update import Objective, update

CHECKPOINTS = "checkpoints"


def train(
    *,
    model: ActionModel,
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
    average: Average = Last(),  # noqa: B008
) -> TrainingResult:
    """Train what requires a gradient in the model's network for `steps` steps, resuming what lies in `run/checkpoints`.

    It trains where the network is. `optimizer` is called with parameter groups, `schedule` with the optimizer and `steps=`.
    `max_gradient_norm` may be infinite; each label weighs the same, over all `gradient_accumulation` batches of a step.
    `on_non_finite` decides about steps without a finite loss, `resumption` about settings that differ from a checkpoint's,
    `average` about which weights are validated, kept and left in the network.

    Raises:
        NonFiniteLossError: from `on_non_finite`; names the episode and frame, and the last checkpoint stands.
        TrainingInterrupted: Ctrl-C or another of `STOPPING`, after saving and printing `resume_command`.
        WorkerDiedError: a worker was killed, after saving.
        ValueError: nothing is trainable, a number is out of its range, or the checkpoint in `run` was made with other settings.
    """
    network: nn.Module = model.network
    accelerator = _accelerator(precision, seed, device=next(network.parameters()).device)
    objective = accelerator.prepare(Objective(model)).train()
    forward = Forward(model, pad_id, accelerator.autocast)  # pyright: ignore[reportArgumentType] (its argument is mistyped)
    sampler = StepSampler(size=len(samples), batch_size=batch_size, gradient_accumulation=gradient_accumulation, seed=seed)
    settings = asdict(sampler) | {"precision": precision, "device": accelerator.device.type}
    state = _state(network, optimizer, schedule, steps=steps, settings=settings)
    folder = CheckpointFolder(run / CHECKPOINTS, keep_last)
    progress = state.restore(folder, steps=steps, resumption=resumption)
    average.swap(state.optimizer)  # a checkpoint holds the weights that act
    step = partial(update, objective, state.optimizer, accelerator=accelerator, max_gradient_norm=max_gradient_norm)
    measure = partial((validation or Validation([])).measure, forward, batch_size=batch_size)
    session = Session(
        advance=followed(average, state.optimizer, step),
        measure=inside(average, state.optimizer, measure),
        on_non_finite=on_non_finite,
        schedule=state.schedule,
        save=inside(average, state.optimizer, partial(state.save, folder)),
        loggers=loggers,
        steps=steps,
        validate_every=validate_every,
        save_every=save_every,
        resume_command=resume_command,
    )
    with quick_bfloat16(accelerator.device), {"bf16": training_context(network), "fp32": nullcontext()}[precision]:
        batches = feed(samples, sampler, start=progress.step, stop=steps, pad_id=pad_id, workers=workers, device=accelerator.device)
        progress = session.run(progress, batches)
    average.swap(state.optimizer)
    return result_of(progress, model=network, device=accelerator.device, samples_per_step=sampler.samples_per_step)


def _state(
    network: nn.Module,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    schedule: Callable[..., LRScheduler],
    *,
    steps: int,
    settings: dict[str, Any],
) -> TrainingState:
    updater = optimizer(parameter_groups(network))
    return TrainingState(trainable_parameters(network), updater, schedule(updater, steps=steps), settings=settings)


def _accelerator(precision: Literal["bf16", "fp32"], seed: int, *, device: torch.device) -> Accelerator:
    set_threads(sensible_threads())
    check_alone()
    accelerator = accelerator_for(precision, device)
    set_seed(seed)
    watch_peak(accelerator.device)
    return accelerator
