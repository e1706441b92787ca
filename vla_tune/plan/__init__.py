"""Bytes and time before a run: does it fit, and what to change."""

from vla_tune.plan.activations import numerics
from vla_tune.plan.architecture import Architecture, architecture
from vla_tune.plan.device import Device, device_here
from vla_tune.plan.memory import Bytes, Load, training_bytes
from vla_tune.plan.plan import Plan, make_plan, plan_of, record_of
from vla_tune.plan.states import state_bytes

__all__ = [
    "Architecture",
    "Bytes",
    "Device",
    "Load",
    "Plan",
    "architecture",
    "device_here",
    "make_plan",
    "numerics",
    "plan_of",
    "record_of",
    "state_bytes",
    "training_bytes",
]
