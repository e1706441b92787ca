"""The devices that a run may be planned for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

GIB = 2**30
_CONTEXT_GIB = 0.6
"""What CUDA's context and the libraries' workspaces take of a GPU before the first tensor; torch does not count it."""
_FRAGMENTS = 0.03
"""Share of a GPU that is lost between blocks of memory."""


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
        lost = _CONTEXT_GIB + _FRAGMENTS * self.memory_gib if self.kind == "cuda" else 1.0
        return int((self.memory_gib - lost) * GIB)


def device_here(known: Mapping[str, Device]) -> Device:
    """This machine's first GPU, with the speeds of the one in `known` that has its name; without a GPU, the computer's memory."""
    if not torch.cuda.is_available():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        return Device(name="this computer's CPU (no GPU here)", memory_gib=memory, bandwidth=None, peak_flops=None, kind="cpu")
    properties = torch.cuda.get_device_properties(0)
    same = next((device for device in known.values() if device.name == properties.name), None)
    memory = properties.total_memory / GIB
    if same is None:
        return Device(name=properties.name, memory_gib=memory, bandwidth=None, peak_flops=None)
    return replace(same, memory_gib=memory)
