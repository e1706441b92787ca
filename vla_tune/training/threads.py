"""How many CPU threads torch should use."""

import os
from pathlib import Path

import torch

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def sensible_threads() -> int:
    """As many threads as cores: those this process may run on, and no more than its container's quota.

    It follows from the machine alone, for another number of threads sums in another order: the same seed is the same run. Beside
    other work fewer may be quicker (two OpenMP threads that share a busy core wait for each other: on two busy cores they were
    measured 5 times slower than one thread); that is the user's to say, with OMP_NUM_THREADS.
    """
    return max(1, min(len(os.sched_getaffinity(0)), _quota()))


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
