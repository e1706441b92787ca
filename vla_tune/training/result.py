"""What a run came to."""

from dataclasses import dataclass

import torch
from torch import nn

from vla_tune.training.optim import trainable_parameters
from vla_tune.training.peak_memory import peak_bytes
from vla_tune.training.state import Progress


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


def result_of(progress: Progress, *, model: nn.Module, device: torch.device, samples_per_step: int) -> TrainingResult:
    """What `progress` says, and what can be counted."""
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
