"""How many CPU threads torch should use."""

import math
import os
from pathlib import Path

import torch

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def sensible_threads() -> int:
    """As many threads as cores were idle over the last minute, at least one.

    Cores are those this process may run on, and no more than its container's quota. Two OpenMP threads that share a busy core
    wait for each other: on two busy cores they were measured 5 times slower than one thread.
    """
    cores = min(len(os.sched_getaffinity(0)), _quota())
    return max(1, math.floor(cores - os.getloadavg()[0] + 0.5))


def set_threads(threads: int) -> int:
    """Let torch use `threads` threads, unless the user decided with OMP_NUM_THREADS; returns what is in force."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _quota() -> int:
    try:
        limit, period = _CGROUP_QUOTA.read_text().split()
    except OSError:
        return os.cpu_count() or 1
    return os.cpu_count() or 1 if limit == "max" else max(1, int(limit) // int(period))
