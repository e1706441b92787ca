"""What a training step of an adapter takes of a GPU, beside what the planner says."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from vla_tune.adapters import Adapter, training_context
from vla_tune.bench.budget import OUT_OF_MEMORY, Cell, Cells
from vla_tune.bench.inputs import action_space, causal_batch, random_base
from vla_tune.bench.kept import Kept
from vla_tune.bench.measure import Row
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.outline import outline
from vla_tune.plan import Architecture, Device, Load, Plan, architecture, make_plan, state_bytes
from vla_tune.plan.speed import step_flops
from vla_tune.plan.states import StateBytes
from vla_tune.training.accelerator import accelerator_for
from vla_tune.training.optim import parameter_groups
from vla_tune.training.update import Objective, update

CODES = 7
"""Of one action; with the end of the sequence they are the labels."""
_WARM_UPS = 2
_LEAST = 3
"""Steps that are timed, however long they take."""
_MOST = 50


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step as `training.loop` takes it: the loss of OpenVLA in an autocast, backward, clipped, AdamW."""

    config: OpenVLAConfig
    adapter: Adapter
    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    device: str
    prompt_length: int
    seed: int

    def load(self, batch_size: int, *, checkpointing: bool = False) -> Load:
        """What goes through the model at once."""
        context = self._described[0].outline.image_tokens + self._described[0].outline.state_tokens
        return Load(
            batch_size=batch_size,
            length=context + self.prompt_length + CODES + 1,
            labels=CODES + 1,
            cameras=1,
            checkpointing=checkpointing,
        )

    def flops(self, batch_size: int) -> int:
        """Of one step: the planner's count (`plan.speed.step_flops`), what checkpointing runs again left out.

        2 operations for each weight and token forward, 2 for the gradient of the input, 2 for that of a weight that learns, and
        attention over all pairs of positions; pointwise operations, attention within the vision towers and the optimizer are left
        out.
        """
        return step_flops(self._described[0], self.load(batch_size))

    def plan(self, device: Device, load: Load) -> Plan:
        """The planner's figures."""
        model, states = self._described
        return make_plan(
            model, states, load=load, device=device, precision="bf16", steps=1, devices=1, sharding="ddp", decoding_passes=CODES
        )

    def stepping(self, model: OpenVLA, batch_size: int) -> Callable[[], float]:
        """What takes one step, waits for the device, and returns the loss."""
        space = action_space(self.config, horizon=1, action_dimension=CODES)
        batch = causal_batch(
            self.config, space, rows=batch_size, prompt_length=self.prompt_length, labelled=True, seed=self.seed
        ).to(self.device)
        accelerator = accelerator_for("bf16", self.device)
        objective = accelerator.prepare(Objective(AutoregressiveTokenHead(space).over(model)))
        optimizer = self.optimizer(parameter_groups(model))

        def step() -> float:
            with training_context(model):
                return update(objective, optimizer, [batch], accelerator=accelerator, max_gradient_norm=1.0, step=0).loss

        return step

    def model(self) -> OpenVLA:
        """Random weights on the device, in the adapter's format, and the adapter."""
        model = random_base(self.config, base=self.adapter.base, device=self.device, seed=self.seed)
        self.adapter.attach(model)
        return model.train()

    @cached_property
    def _described(self) -> tuple[Architecture, StateBytes]:
        model = architecture(outline(self.config), self.adapter)
        return model, state_bytes(model.outline.model, model.reached, self.optimizer)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long cells are looked at."""

    seconds: float
    """Of measuring."""
    preparing: float = 15.0
    """Seconds until a model of 7B is on the device."""
    compiling: float = 90.0
    """Until its blocks are compiled for one shape; half of it for what is pointwise."""


def training_cells(name: str, step: Step, *, batches: Sequence[int], variant: str, device: Device, timing: Timing) -> Cells:
    """A row for each batch size, eager or compiled; where an eager one does not fit, one with checkpointing too."""
    models = Kept(step.model)
    cell = partial(_cell, name, step, models, device=device, timing=timing)
    for batch_size in batches:
        row = yield cell(batch_size, variant=variant)
        if row["status"] == OUT_OF_MEMORY and variant == "eager":
            yield cell(batch_size, variant="checkpointed")
    torch._dynamo.reset()  # what was compiled may keep the model
    models.forget()


def _cell(name: str, step: Step, models: Kept, batch_size: int, *, variant: str, device: Device, timing: Timing) -> Cell:
    load = step.load(batch_size, checkpointing=variant == "checkpointed")
    plan = step.plan(device, load)
    names = {
        "part": "training",
        "work": f"{name}, batch {batch_size}, {variant}",
        "adapter": name,
        "base": step.adapter.base,
        "batch_size": batch_size,
        "variant": variant,
        "trainable_parameters": plan.trainable,
        "step_flops": step.flops(batch_size),
        "planned_bytes": plan.bytes_.peak,
        "fits_by_plan": plan.fits,
    }
    seconds = 2 * timing.seconds + (0 if models.made else timing.preparing) + timing.compiling * (variant == "compiled")
    return Cell(names, seconds, partial(_measured, step, models, names, device=device, seconds=timing.seconds))


def _measured(step: Step, models: Kept, names: Row, *, device: Device, seconds: float) -> Row:
    model = models.get()
    with _variant(model, names["variant"]):
        take = step.stepping(model, names["batch_size"])
        for _ in range(_WARM_UPS):
            take()
        on_gpu = torch.device(step.device).type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        times = list(_times(take, seconds))
        peak = torch.cuda.max_memory_allocated() if on_gpu else None
    rate = names["step_flops"] / median(times)
    assert device.peak_flops is not None
    return {
        "step_seconds": median(times),
        "step_seconds_low": min(times),
        "step_seconds_high": max(times),
        "steps": len(times),
        "samples_per_second": names["batch_size"] / median(times),
        "flops_per_second": rate,
        "share_of_matmul": rate / device.peak_flops,
        "peak_bytes": peak,
        "peak_over_plan": None if peak is None else peak / names["planned_bytes"],
    }


@contextmanager
def _variant(model: OpenVLA, variant: str) -> Iterator[None]:
    """The model as the cell wants it; checkpointing ends with the cell, compiled blocks stay compiled."""
    if variant == "compiled":
        torch._dynamo.reset()  # shapes of other cells do not count against its limit
        for block in model.blocks:
            block.compile(dynamic=False)  # one compilation serves all blocks of a kind
    if variant != "checkpointed":
        yield
        return
    layers = model.language_model.model.layers
    for layer in layers:  # as transformers does it, whose method has two names
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False


def _times(take: Callable[[], float], seconds: float) -> Iterator[float]:
    """Seconds of each of some steps, which take about `seconds` together."""
    begin = time.perf_counter()
    for number in range(_MOST):
        if number >= _LEAST and time.perf_counter() - begin > seconds:
            return
        start = time.perf_counter()
        take()
        yield time.perf_counter() - start
