"""One optimizer step over some batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel, Loss
from vla_tune.training.metrics import culprits
from vla_tune.training.non_finite import NonFiniteLossError


class Objective(nn.Module):
    """The loss of a model as a module, so that accelerate casts all that leads to it: the vocabulary's matrix product as well."""

    def __init__(self, model: ActionModel) -> None:
        super().__init__()
        self.network = model.network
        self._loss = model.loss

    def forward(self, batch: Batch) -> Loss:
        """The loss of every label."""
        return self._loss(batch)


@dataclass(frozen=True)
class Updated:
    """What one step did."""

    loss: float
    """Mean over the labels of all its batches, before the step."""
    token_accuracy: float | None
    """None where there are no codes."""
    gradient_norm: float
    """Before clipping."""

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names that the loggers get."""
        accuracy = {} if self.token_accuracy is None else {"train/token_accuracy": self.token_accuracy}
        return {"train/loss": self.loss, **accuracy, "train/gradient_norm": self.gradient_norm}


@dataclass(frozen=True)
class Skipped:
    """A step that was left out: nothing was moved."""

    @property
    def loss(self) -> None:
        """There is none."""
        return None

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names that the loggers get."""
        return {"train/skipped": 1.0}


def update(
    objective: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    *,
    accelerator: Accelerator,
    max_gradient_norm: float,
    step: int,
) -> Updated:
    """Move the parameters by the gradient of the mean loss over all labels of `batches`, which lie where the model does.

    Each label weighs the same, however the labels are spread over the batches (a mean of the batches' means would not do that).

    Raises:
        NonFiniteLossError: nothing was moved.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: list[Loss] = []
    for batch in batches:
        output: Loss = objective(batch)
        _refuse_non_finite(output, batch, step)
        accelerator.backward(output.per_label.sum())
        losses.append(replace(output, per_label=output.per_label.detach()))
    per_label = torch.cat([loss.per_label for loss in losses])
    assert len(per_label), f"step {step} has no label: {_where(batches)}"
    norm = _scale_and_clip(optimizer, accelerator, labels=len(per_label), limit=max_gradient_norm)
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"Step {step}: the gradient is {norm} although the loss is finite; {_where(batches)}.")
    optimizer.step()
    return Updated(per_label.float().mean().item(), _accuracy(losses), norm)


def _accuracy(losses: Sequence[Loss]) -> float | None:
    correct = [loss.correct for loss in losses if loss.correct is not None]
    return torch.cat(correct).float().mean().item() if correct else None


def _scale_and_clip(optimizer: Optimizer, accelerator: Accelerator, *, labels: int, limit: float) -> float:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(labels)
    norm = accelerator.clip_grad_norm_(parameters, limit)
    assert norm is not None
    return float(norm)


def _refuse_non_finite(output: Loss, batch: Batch, step: int) -> None:
    if bool(output.per_label.isfinite().all()):
        return
    where = "the batch has no index"
    if batch.index is not None:
        where = _named(culprits(batch, output))
    raise NonFiniteLossError(f"Step {step}: the loss is not finite for {where}.")


def _where(batches: Sequence[Batch]) -> str:
    return _named([tuple(row) for batch in batches if batch.index is not None for row in batch.index.tolist()])


def _named(places: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(f"episode {episode} frame {frame}" for episode, frame in places)
