"""Seconds of a training step and of an action, from floating-point operations and bytes that must move."""

from dataclasses import dataclass

from vla_tune.models.precision import weight_dtype
from vla_tune.plan.architecture import Architecture, PlacedLinear
from vla_tune.plan.device import Device
from vla_tune.plan.memory import Bytes, Load, flowing_blocks
from vla_tune.plan.passes import operations

SHARE = 0.4
"""Of the vendor's peak that training is assumed to reach: 0.4 to 0.55 with full batches, 0.15 to 0.3 in stock scripts."""
_HOST_LINK = 20e9
"""Bytes per second between a GPU and the computer's memory (PCIe 4.0 x16, less its overhead)."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Assumes `SHARE` of the peak for products, and the full bandwidth for what only moves."""

    step_flops: int
    """Of one device in one optimizer step."""
    step_seconds: float
    samples_per_second: float
    """Over all devices; what they say to each other is taken to hide behind the computation."""
    hours: float


def speed(model: Architecture, size: Bytes, load: Load, device: Device, *, steps: int, devices: int) -> Speed | None:
    """Of training; None where the device's speed is not known.

    Products: 2 operations per weight and token forward, 2 for the gradient of the input, 2 for that of a weight that learns, and
    the forward pass of the blocks again with checkpointing. NF4 weights are written out in bfloat16 before each product, paged
    states cross to the computer and back, and an optimizer's step reads and writes all that it owns.
    """
    if device.peak_flops is None or device.bandwidth is None:
        return None
    flops = load.gradient_accumulation * step_flops(model, load)
    passes = 3 if load.checkpointing else 2
    dequantized = load.gradient_accumulation * passes * model.quantized * (0.5 + 2)  # read, and written in bfloat16
    moved = 2 * (size.optimizer + size.adapter + size.gradients) + dequantized
    seconds = flops / (SHARE * device.peak_flops) + moved / device.bandwidth + 2 * size.host / _HOST_LINK
    samples = load.batch_size * load.gradient_accumulation * devices
    return Speed(step_flops=flops, step_seconds=seconds, samples_per_second=samples / seconds, hours=steps * seconds / 3600)


def step_flops(model: Architecture, load: Load) -> int:
    """Of one forward and backward pass of a batch on one device."""
    if model.outline.loss is not None:
        return operations(model.outline.model, model.outline.loss, load.batch_size).both
    flowing = {placed.name for placed, _ in flowing_blocks(model)}
    linears = sum(_linear_flops(model, placed, load, flowing) for placed in model.linears)
    labels = load.batch_size * load.labels
    return linears + _attention_flops(model, load, flowing) + 2 * labels * model.head.weights * (2 + model.head.learns)


def _linear_flops(model: Architecture, placed: PlacedLinear, load: Load, flowing: set[str]) -> int:
    reader, tokens = placed.reader, load.tokens(model, placed.inside)
    lora = reader.rank * (reader.inputs + reader.outputs)
    if not _within(placed.name, flowing):
        return 2 * tokens * (reader.weights + lora)
    passes = 2 + reader.learns + _again(placed.inside, load)
    return 2 * tokens * (passes * reader.weights + (3 + _again(placed.inside, load)) * lora)


def _attention_flops(model: Architecture, load: Load, flowing: set[str]) -> int:
    """Scores and their sums of values: 4 operations for each pair of tokens and channel, twice that backward."""
    total = 0
    for placed in model.blocks:
        if placed.inside is not None:
            continue
        passes = 3 + _again(placed.inside, load) if placed.name in flowing else 1
        total += passes * 4 * load.length * load.tokens(model, None) * placed.block.width
    return total


def _again(inside: str | None, load: Load) -> int:
    return int(load.checkpointing and inside is None)


def _within(name: str, blocks: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in blocks for length in range(1, len(parts)))


def action_floor_seconds(model: Architecture, load: Load, device: Device, *, passes: int) -> float | None:
    """No action can come sooner: its operations at the device's peak, and every weight read once in each of `passes`.

    `passes` is the number of codes where they are decoded one after the other, and 1 where they are decoded in parallel.
    """
    if device.peak_flops is None or device.bandwidth is None:
        return None
    first = max(_seeing_flops(model, load) / device.peak_flops, model.weight_bytes / device.bandwidth)
    return first + (passes - 1) * _read_again(model) / device.bandwidth


def _seeing_flops(model: Architecture, load: Load) -> float:
    """Of one observation on the way forward."""
    if model.outline.loss is not None:
        return float(operations(model.outline.model, model.outline.loss, 1).forward)
    language = sum(2 * load.length * placed.reader.weights for placed in model.linears if placed.inside is None)
    images = sum(
        2 * load.tokens(model, placed.inside) * placed.reader.weights / load.batch_size
        for placed in model.linears
        if placed.inside is not None
    )
    return float(language + images)


def _read_again(model: Architecture) -> int:
    """Bytes of the weights that one more code reads: the language model's, without the embedding, of which it reads one row.

    What lies in front of the language model is never in 4 bits.
    """
    inside = {module.split(".")[0] for module in model.outline.tokens}
    elsewhere = sum(tower.parameters for tower in model.towers if tower.name in inside)
    return model.weight_bytes - weight_dtype(model.base).itemsize * (elsewhere + model.head.weights)
