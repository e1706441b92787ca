"""What a device can do at best: what other speeds are compared with."""

import time
from collections.abc import Callable
from statistics import median

import torch

_ROUNDS = 5
_IN_A_ROUND = 10
_WARM_UPS = 3


def wait_for(device: torch.device | str) -> None:
    """Until all that was launched on `device` is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def matmul_flops(device: torch.device | str, *, size: int) -> float:
    """Operations per second of the product of two random `size` x `size` bfloat16 matrices, 2 size^3 of them."""
    left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    place = torch.empty_like(left)
    return 2 * size**3 / _seconds(lambda: torch.mm(left, right, out=place), device)


def copy_bandwidth(device: torch.device | str, *, size: int) -> float:
    """Bytes per second of a copy of `size` bytes within the memory of `device`, those read and those written."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(256)
    place = torch.empty_like(source)
    return 2 * size / _seconds(lambda: place.copy_(source), device)


def _seconds(do: Callable[[], object], device: torch.device | str) -> float:
    """Of one, median of rounds."""
    for _ in range(_WARM_UPS):
        do()
    rounds = []
    for _ in range(_ROUNDS):
        wait_for(device)
        start = time.perf_counter()
        for _ in range(_IN_A_ROUND):
            do()
        wait_for(device)
        rounds.append((time.perf_counter() - start) / _IN_A_ROUND)
    return median(rounds)
