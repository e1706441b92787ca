"""The devices that a run may be planned for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from vla_tune.data.computer import computer_memory

GIB = 2**30
_CONTEXT_GIB = 0.6
"""What CUDA's context and the libraries' workspaces take of a GPU before the first tensor; torch does not count it."""
_FRAGMENTS = 0.03
"""Share of a GPU that is lost between blocks of memory."""
_INTERPRETER_GIB, _HEAP_FRAGMENTS = 1.0, 0.2
"""The same of a computer's memory: libraries and what they hold; and what the C library keeps of blocks that were given back."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, or the computer itself; speeds are the vendor's."""

    name: str
    """As `torch.cuda.get_device_name` says it."""
    memory_gib: float
    """As torch counts it (`get_device_properties(0).total_memory`): less than what the vendor's name of the card says."""
    bandwidth: float | None
    """Of its memory, bytes per second."""
    peak_flops: float | None
    """Dense bfloat16 with float32 sums, per second; None where it is not known, and no time is estimated."""
    kind: str = "cuda"

    @property
    def usable_bytes(self) -> int:
        """What tensors may take."""
        if self.kind == "cuda":
            return int((self.memory_gib - _CONTEXT_GIB - _FRAGMENTS * self.memory_gib) * GIB)
        return int((self.memory_gib - _INTERPRETER_GIB) * (1 - _HEAP_FRAGMENTS) * GIB)


def device_here(known: Mapping[str, Device], *, device: str = "auto") -> Device:
    """What a run on `device` has: of a GPU, with the speeds of the one in `known` that has its name; else the computer's memory.

    Args:
        known: GPUs by any name.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`, which is cuda where there is one.
    """
    if device == "cpu" or not torch.cuda.is_available():
        name = "this computer's CPU" if device == "cpu" else "this computer's CPU (no GPU here)"
        return Device(name=name, memory_gib=computer_memory() / GIB, bandwidth=None, peak_flops=None, kind="cpu")
    properties = torch.cuda.get_device_properties(torch.device("cuda" if device == "auto" else device))
    same = next((device for device in known.values() if device.name == properties.name), None)
    memory = properties.total_memory / GIB
    if same is None:
        return Device(name=properties.name, memory_gib=memory, bandwidth=None, peak_flops=None)
    return replace(same, memory_gib=memory)
