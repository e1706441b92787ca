"""The most memory that a process held since a moment."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch_peak(device: torch.device) -> None:
    """Start anew; a process that trains several runs would report the largest of them otherwise."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # no Linux: the maximum is that of the process
        _CLEAR.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """CUDA's allocated maximum, or the resident maximum of the process, since `watch_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
