"""A plan: what a run will take, and whether it fits."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from torch.optim import Optimizer

from vla_tune.adapters.base import Adapter
from vla_tune.models.base import Outline
from vla_tune.plan.activations import numerics
from vla_tune.plan.architecture import Architecture, Tower, architecture
from vla_tune.plan.arithmetic import FP32_ADAM, HALF_PRECISION, HALF_PRECISION_KAHAN
from vla_tune.plan.device import Device
from vla_tune.plan.memory import Bytes, Load, spread, training_bytes
from vla_tune.plan.speed import Speed, action_floor_seconds, speed
from vla_tune.plan.states import StateBytes, state_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes on each of its devices."""

    towers: tuple[Tower, ...]
    trainable: int
    total: int
    """Parameters, those of the adapter included."""
    base: str
    load: Load
    bytes_: Bytes
    device: Device
    devices: int
    sharding: str
    steps: int
    decoding_passes: int
    model: Architecture = field(repr=False)

    @cached_property
    def speed(self) -> Speed | None:
        """Of training, where the device's is known."""
        return speed(self.model, self.bytes_, self.load, self.device, steps=self.steps, devices=self.devices)

    @cached_property
    def action_floor_seconds(self) -> float | None:
        """The least that acting on one observation takes, where the device's speed is known."""
        return action_floor_seconds(self.model, self.load, self.device, passes=self.decoding_passes)

    @property
    def fits(self) -> bool:
        """Whether the peak lies within what the device has left for tensors."""
        return self.bytes_.peak <= self.device.usable_bytes

    @property
    def percent(self) -> float:
        """Share of the parameters that learns."""
        return 100 * self.trainable / self.total

    @property
    def full_fine_tuning(self) -> dict[str, int]:
        """Bytes without activations if every parameter of the base learned: the sources' figures and what they assume."""
        parameters = sum(tower.parameters for tower in self.towers)
        formats = {"fp32_adam": FP32_ADAM, "half_precision": HALF_PRECISION, "half_precision_kahan": HALF_PRECISION_KAHAN}
        return {name: parameters * format_.bytes_per_parameter for name, format_ in formats.items()}


def plan_of(
    outline: Outline,
    *,
    adapter: Adapter,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    load: Load,
    device: Device,
    precision: str = "bf16",
    steps: int = 1,
    devices: int = 1,
    sharding: str = "ddp",
    decoding_passes: int = 1,
) -> Plan:
    """Plan a run of the model in `outline`, to which `adapter` is attached in place.

    Args:
        outline: from `checkpoint.outline()`; a fresh one for each plan.
        adapter: what learns, and in which format the base is.
        optimizer: called with parameter groups, as in training.
        load: the batch of one device.
        device: where it must fit.
        precision: of the forward pass, bf16 or fp32.
        steps: of the optimizer.
        devices: how many.
        sharding: ddp or fsdp.
        decoding_passes: forward passes of one action.
    """
    model = architecture(outline, adapter)
    states = state_bytes(outline.model, model.reached, optimizer)
    return make_plan(
        model,
        states,
        load=load,
        device=device,
        precision=precision,
        steps=steps,
        devices=devices,
        sharding=sharding,
        decoding_passes=decoding_passes,
    )


def make_plan(
    model: Architecture,
    states: StateBytes,
    *,
    load: Load,
    device: Device,
    precision: str,
    steps: int,
    devices: int,
    sharding: str,
    decoding_passes: int,
) -> Plan:
    """`plan_of` for a model that is described already."""
    of = numerics(model.base, precision=precision, device=device.kind)
    size = training_bytes(model, states, load, of, spread(sharding, devices))
    return Plan(
        towers=model.towers,
        trainable=model.trainable,
        total=model.total,
        base=model.base,
        load=load,
        bytes_=size,
        device=device,
        devices=devices,
        sharding=sharding,
        steps=steps,
        decoding_passes=decoding_passes,
        model=model,
    )


def record_of(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    return {
        "trainable_parameters": plan.trainable,
        "total_parameters": plan.total,
        "trainable_percent": plan.percent,
        "parameters": {tower.name: tower.parameters for tower in plan.towers},
        "bytes": asdict(plan.bytes_) | {"static": plan.bytes_.static},
        "uncounted": list(plan.model.uncounted),
        "fits": plan.fits,
        "gpu": plan.device.name,
        "gpu_bytes": plan.device.usable_bytes,
        "gpus": plan.devices,
        "sharding": plan.sharding,
        "base": plan.base,
        "batch_size": plan.load.batch_size,
        "sequence_length": plan.load.length,
        "gradient_accumulation": plan.load.gradient_accumulation,
        "checkpointing": plan.load.checkpointing,
        "steps": plan.steps,
        "step_seconds": plan.speed.step_seconds if plan.speed else None,
        "samples_per_second": plan.speed.samples_per_second if plan.speed else None,
        "hours": plan.speed.hours if plan.speed else None,
        "action_floor_seconds": plan.action_floor_seconds,
        "full_fine_tuning_bytes": plan.full_fine_tuning,
    }
