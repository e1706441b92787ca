"""Where a run computes, and in which precision."""

from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState


def accelerator_for(precision: Literal["bf16", "fp32"], device: torch.device | str) -> Accelerator:
    """A new one: what an earlier run in this process chose is forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it outlives a run, and would refuse one in another precision
    return Accelerator(mixed_precision={"bf16": "bf16", "fp32": "no"}[precision], cpu=torch.device(device).type == "cpu")
