"""Bytes of a training run on one of its devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vla_tune.plan.activations import DecoderBlock, Numerics, rms_norm
from vla_tune.plan.architecture import Architecture, PlacedBlock
from vla_tune.plan.passes import Pass, acting_peak, training_pass
from vla_tune.plan.states import StateBytes

BEHIND = "action_head"
"""What runs behind the language model, once for each action of a chunk; it is no tower in front of it."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much goes through the model at once, on one device."""

    batch_size: int
    length: int
    """Positions of a sequence: images, state, text and codes."""
    labels: int
    """Positions with a label: only they reach the vocabulary."""
    cameras: int
    actions: int = 0
    """Of a chunk, where an action head reads them."""
    gradient_accumulation: int = 1
    checkpointing: bool = False
    """Whether blocks keep their input only and are run again in the backward pass (Chen et al., arXiv 1604.06174)."""
    rows: int = 0
    """Observations in one forward pass of the evaluation."""
    one_by_one: bool = False
    """Whether codes are said one after the other, over the keys and values of those before."""
    merged_bytes: int = 0
    """Of the weights of the merged policy, where it is timed at the end."""

    def tokens(self, architecture: Architecture, inside: str | None) -> int:
        """Of a batch, in a module of the outline or in the language model."""
        times = {None: 1, BEHIND: self.actions}.get(inside, self.cameras)
        return self.batch_size * self.span(architecture, inside) * times

    def span(self, architecture: Architecture, inside: str | None) -> int:
        """Tokens that attend to each other."""
        return self.length if inside is None else architecture.outline.tokens[inside]


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """On one device. The peak is no sum: gradients come as activations go."""

    weights: int
    """Of the frozen base (or of all, where the weights themselves learn), in its format."""
    adapter: int
    gradients: int
    """float32, of what learns."""
    optimizer: int
    activations: int
    """Kept for the backward pass; their copies of float32 weights in the autocast's dtype included."""
    working: int
    """What the backward pass of one block, the vocabulary, dequantisation or the optimizer's step takes for a moment."""
    acting: int
    """What a forward pass takes for a moment where actions are predicted: in validation, and where the run is evaluated."""
    peak: int
    host: int
    """Optimizer states in the computer's memory."""

    @property
    def static(self) -> int:
        """Weights, adapter, gradients and optimizer states: what the papers' figures count."""
        return self.weights + self.adapter + self.gradients + self.optimizer


@dataclass(frozen=True)
class Spread:
    """How a run lies on its devices."""

    divided: int = 1
    """Over how many devices weights, gradients and optimizer states are split."""
    buckets: int = 0
    """Copies of the gradients in which they are summed over the devices."""
    gathered: int = 0
    """Blocks whose weights are whole on a device at a time."""


SPREADS: dict[str, Callable[[int], Spread]] = {
    "ddp": lambda devices: Spread(buckets=int(devices > 1)),
    "fsdp": lambda devices: Spread(divided=devices, gathered=2 if devices > 1 else 0),
}
"""DDP keeps everything on every device; FSDP splits it, and gathers the block that runs and the next one."""


def spread(name: str, devices: int) -> Spread:
    """The rule with this name.

    Raises:
        ValueError: there is none, or there are no devices.
    """
    if name not in SPREADS:
        raise ValueError(f"sharding={name!r} is unknown: choose one of {', '.join(SPREADS)}.")
    if devices < 1:
        raise ValueError(f"gpus={devices}: a run needs at least one.")
    return SPREADS[name](devices)


def training_bytes(model: Architecture, states: StateBytes, load: Load, of: Numerics, over: Spread = Spread()) -> Bytes:
    """On one device.

    The peak is the largest of six moments: the end of the forward pass (activations, and gradients only where batches are
    accumulated, since they are freed before each step), the end of the backward pass, the optimizer's step, a validation, the
    evaluation afterwards, which has no optimizer any more, and the timing of the merged policy, alone in memory.
    """
    weights, adapter, gradients, optimizer, step, host = (
        -(-size // over.divided)
        for size in (
            model.weight_bytes,
            model.adapter_bytes,
            model.gradient_bytes,
            states.device,
            states.step,
            states.host,
        )
    )
    activations = activation_bytes(model, load, of, divided=over.divided)
    working = backward_bytes(model, load, of) + over.gathered * _largest_block(model) + over.buckets * gradients
    carried = gradients if load.gradient_accumulation > 1 else 0
    moments = (carried + activations + working, gradients + working, gradients + over.buckets * gradients + step)
    validation, evaluation = (acting_bytes(model, load, of, rows=rows) for rows in (load.batch_size, load.rows))
    return Bytes(
        weights=weights,
        adapter=adapter,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        working=working,
        acting=max(validation, evaluation),
        peak=max(
            weights + adapter + max(optimizer + max(moments), optimizer + validation, evaluation), load.merged_bytes + evaluation
        ),
        host=host,
    )


def _largest_block(model: Architecture) -> int:
    """Bytes of a block's weights, at the mean size of a weight of the base; of a tower's where no block is known."""
    largest = max((part.parameters for part in model.blocks or model.towers), default=0)
    return largest * model.weight_bytes // max(1, model.base_parameters)


def _run(model: Architecture, load: Load, of: Numerics) -> Pass | None:
    """What a pass takes that was run, where the outline tells how."""
    loss = model.outline.loss
    return None if loss is None else training_pass(model.outline.model, loss, load.batch_size, autocast=of.autocast)


def activation_bytes(model: Architecture, load: Load, of: Numerics, *, divided: int = 1) -> int:
    """What the forward pass keeps until the backward pass: blocks, the last norm, the vocabulary, and casts of weights.

    Weights that are `divided` over devices are cast where they lie.
    """
    if (passed := _run(model, load, of)) is not None:
        return passed.kept
    flowing = flowing_blocks(model)
    if not flowing and not model.head.changes:
        return 0
    blocks = sum(_kept(model, block, load, of, first=first) for block, first in flowing)
    norm = rms_norm(model.head.inputs, of, learns=model.final_norm_learns) * load.tokens(model, None)
    labels = load.batch_size * load.labels
    vocabulary = labels * (4 * model.head.outputs + of.compute * model.head.inputs * model.head.changes)
    return blocks + norm + vocabulary + cast_bytes(model, flowing, load, of) // divided


def flowing_blocks(model: Architecture) -> list[tuple[PlacedBlock, bool]]:
    """The blocks through which a gradient flows, and whether each is the first of its tower: the rest keeps nothing.

    Frozen vision towers in front of an adapted language model keep nothing. Towers feed the language model side by side.
    """
    learns_outside = any(block.block.learns for block in model.blocks if block.inside not in (None, BEHIND))
    seen: dict[str | None, bool] = {None: learns_outside, "projector": any(map(_is_vision_that_learns, model.blocks))}
    found: list[tuple[PlacedBlock, bool]] = []
    for block in model.blocks:
        flows = seen.get(block.inside, False) or (block.inside == BEHIND and len(found) > 0)
        if flows or block.block.learns:
            found.append((block, not flows))
            seen[block.inside] = True
    return found


def _is_vision_that_learns(placed: PlacedBlock) -> bool:
    return placed.block.learns and placed.inside not in (None, "projector", "proprio_projector", BEHIND)


def _kept(model: Architecture, placed: PlacedBlock, load: Load, of: Numerics, *, first: bool) -> int:
    tokens = load.tokens(model, placed.inside)
    if load.checkpointing and placed.inside is None:
        return of.stream * placed.block.width * tokens
    kept = placed.block.kept(of, length=load.span(model, placed.inside))
    return (kept - placed.block.first_saves(of, length=load.span(model, placed.inside)) * first) * tokens


def cast_bytes(model: Architecture, flowing: Sequence[tuple[PlacedBlock, bool]], load: Load, of: Numerics) -> int:
    """Copies of float32 weights in the dtype of the autocast, which the backward pass reads; those of an adapter among them.

    In a 16-bit base, what learns in full is float32; where its input carries no gradient (FiLM's), its copy is not read again.
    Under checkpointing only weights that learn keep theirs, until the forward pass ends.
    """
    if of.compute == 4:
        return 0
    adapter = model.adapter_parameters * of.compute if of.adapter == of.compute else 0
    if of.stream == of.compute:
        beside = [reader for block, first in flowing if not first for reader in block.block.readers if reader.learns]
        return adapter + of.compute * sum(reader.weights for reader in beside)
    readers = [reader for block, _ in flowing for reader in block.block.readers] + [model.head]
    held = [reader for reader in readers if reader.learns or not load.checkpointing]
    return adapter + of.compute * sum(reader.weights for reader in held)


def backward_bytes(model: Architecture, load: Load, of: Numerics) -> int:
    """For a moment: the vocabulary's gradients, or those of one block, run again first where there is checkpointing."""
    if (passed := _run(model, load, of)) is not None:
        return max(0, passed.peak - max(passed.kept, model.gradient_bytes)) + of.compute * model.largest_quantized
    labels = load.batch_size * load.labels
    vocabulary = labels * model.head.outputs * (of.compute + 8)
    blocks = max((_live(model, block, load, of) for block, _ in flowing_blocks(model)), default=0)
    return max(vocabulary, blocks) + of.compute * model.largest_quantized


def acting_bytes(model: Architecture, load: Load, of: Numerics, *, rows: int) -> int:
    """Of a forward pass over `rows` without a backward pass: its widest block, the vocabulary, weights cast, and the sequence.

    That is held with what it is put together from, and in float32 for a norm.
    Where codes are said one after the other, the keys and values of all layers stay, and one layer's are copied as they grow.
    """
    if not rows:
        return 0
    if model.outline.loss is not None:
        peak = acting_peak(model.outline.model, model.outline.loss, rows, autocast=of.autocast)
        return peak + of.compute * model.largest_quantized
    of_rows = replace(load, batch_size=rows, checkpointing=False)
    blocks = max((_kept(model, placed, of_rows, of, first=False) for placed in model.blocks), default=0)
    vocabulary = rows * max(1, load.labels) * 4 * model.head.outputs
    decoders = [placed.block for placed in model.blocks if isinstance(placed.block, DecoderBlock)] if load.one_by_one else []
    keys = [2 * of.compute * block.k.outputs for block in decoders]
    cache = (sum(keys) + max(keys, default=0)) * of_rows.tokens(model, None)
    casts = cast_bytes(model, flowing_blocks(model), of_rows, of) + of.compute * model.largest_quantized
    sequence = (8 + 2 * of.stream) * model.head.inputs * of_rows.tokens(model, None)
    return cache + max(blocks, vocabulary) + casts + sequence


def _live(model: Architecture, placed: PlacedBlock, load: Load, of: Numerics) -> int:
    again = load.checkpointing and placed.inside is None
    per_token = placed.block.backward(of) + (placed.block.kept(of, length=load.span(model, placed.inside)) if again else 0)
    cast = of.compute * sum(reader.weights for reader in placed.block.readers) if again and of.stream > of.compute else 0
    return per_token * load.tokens(model, placed.inside) + cast
