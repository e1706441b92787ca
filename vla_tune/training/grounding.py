"""Teach a vision tower what is where, before there is a language model to ask it.

Every projected patch says which objects are centred in its cell and where they are on the table. The dense signal grounds a
small tower in about a minute; from demonstrations alone it does not happen in an hour.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vla_tune.models.cpu_bfloat16 import quick_bfloat16
from vla_tune.models.openvla import OpenVLA


@dataclass(frozen=True)
class GroundingBatch:
    """Images and the place of N objects in each."""

    pixel_values: Float[Tensor, "B V C H W"]
    present: Bool[Tensor, "B N"]
    cells: Float[Tensor, "B N 2"]
    """(column, row) of the object's centre as a fraction of the image."""
    positions: Float[Tensor, "B N 2"]
    """Where the object is in the world, scaled to about [-1, 1]."""


@dataclass(frozen=True)
class GroundingMetrics:
    """How well patches know their objects."""

    loss: float
    presence_accuracy: float
    position_error: float
    """Median over the present objects and both axes, in the scaled unit of the positions."""


def ground(
    model: OpenVLA,
    batches: Iterator[GroundingBatch],
    *,
    steps: int,
    learning_rate: float,
    warmup_steps: int,
    on_step: Callable[[int, GroundingMetrics], None],
) -> None:
    """Train the vision tower and the projector in place; the readout that asks them is thrown away."""
    readout = _Readout(model)
    parameters = [*model.vision_backbone.parameters(), *model.projector.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.95), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup_steps) * (0.02 + 0.49 * (1 + np.cos(np.pi * step / steps)))
    )
    with quick_bfloat16(next(model.parameters()).device):
        for step in range(1, steps + 1):
            loss, metrics = readout(model, next(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step(step, metrics)


class _Readout(nn.Module):
    """Presence logit and (x, y) of every object, from one projected patch."""

    def __init__(self, model: OpenVLA, num_objects: int = 5) -> None:
        super().__init__()
        self.num_objects = num_objects
        self.linear = nn.Linear(model.config.text_config.hidden_size, 3 * num_objects)

    def forward(self, model: OpenVLA, batch: GroundingBatch) -> tuple[Float[Tensor, ""], GroundingMetrics]:
        with torch.autocast(batch.pixel_values.device.type, torch.bfloat16):
            patches = model.projector(model.vision_backbone(batch.pixel_values[:, 0]))
        answers = self.linear(patches.float()).unflatten(-1, (self.num_objects, 3))
        here = _centred_in(batch, num_patches=patches.shape[1])
        presence = F.binary_cross_entropy_with_logits(answers[..., 0], here.float())
        errors = (answers[..., 1:] - batch.positions[:, None]).abs()[here]
        accuracy = ((answers[..., 0] > 0) == here).float().mean()
        loss = 3 * presence + errors.sum(dim=-1).mean()
        return loss, GroundingMetrics(loss.item(), accuracy.item(), errors.median().item())


def _centred_in(batch: GroundingBatch, *, num_patches: int) -> Bool[Tensor, "B P N"]:
    """Whether an object's centre lies in a patch's cell; patches are counted row by row."""
    side = round(num_patches**0.5)
    column, row = (batch.cells * side).long().clamp(0, side - 1).unbind(dim=-1)
    inside = F.one_hot(row * side + column, num_patches).bool() & batch.present[..., None]
    return inside.transpose(1, 2)


def grounding_batch(
    images: UInt8[np.ndarray, "B H W 3"],
    present: Bool[np.ndarray, "B N"],
    pixels: Float[np.ndarray, "B N 2"],
    positions: Float[np.ndarray, "B N 2"],
) -> GroundingBatch:
    """Simulator arrays as a batch: pixels in [-1, 1], places as fractions of the image."""
    height, width = images.shape[1:3]
    return GroundingBatch(
        pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2)[:, None].float() / 127.5 - 1,
        present=torch.from_numpy(present),
        cells=torch.from_numpy(pixels / [width, height]).float(),
        positions=torch.from_numpy(positions).float(),
    )
