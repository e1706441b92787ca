"""Which weights of a run are validated, kept and act: those of its last step, or a mean over its steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.optim import Optimizer

from vla_tune.training.settings import check_number

_KEY = "average"
"""In an optimizer's state of a parameter, so that it is saved and restored with it, bit for bit."""


@runtime_checkable
class Average(Protocol):
    """Follows the weights that an optimizer moves."""

    def follow(self, optimizer: Optimizer, *, step: int) -> None:
        """Step number `step` is done."""
        ...

    def swap(self, optimizer: Optimizer) -> None:
        """Exchange the weights that learn and their mean, in place; a second time puts them back."""
        ...


@dataclass(frozen=True)
class Last:
    """No mean: the weights of the last step."""

    def follow(self, optimizer: Optimizer, *, step: int) -> None:
        """Nothing is kept."""

    def swap(self, optimizer: Optimizer) -> None:
        """Nothing is exchanged."""


@dataclass(frozen=True)
class Ema:
    """An exponential moving average of the weights (Polyak & Juditsky 1992; as in arXiv 1710.10467 and most diffusion policies).

    mean <- d mean + (1 - d) weights after each step t, with d = min(decay, (1 + t) / (10 + t)), so that the first steps are
    soon forgotten; it begins with the weights after the first step. It takes four bytes for each parameter that learns.

    Raises:
        ValueError: `decay` is no number between 0 and 1.
    """

    decay: float

    def __post_init__(self) -> None:
        check_number("average.decay", self.decay, most=1.0)

    @torch.no_grad()
    def follow(self, optimizer: Optimizer, *, step: int) -> None:
        """Move the mean towards the weights."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for parameter, state in optimizer.state.items():
            if _KEY in state:
                state[_KEY].lerp_(parameter.detach(), share)
            else:
                state[_KEY] = parameter.detach().clone()

    def swap(self, optimizer: Optimizer) -> None:
        """Exchange them; before the first step there is no mean."""
        for parameter, state in optimizer.state.items():
            if _KEY in state:
                parameter.data, state[_KEY] = state[_KEY], parameter.data


@contextmanager
def averaged(average: Average, optimizer: Optimizer) -> Iterator[None]:
    """In this block, the network has the mean's weights."""
    average.swap(optimizer)
    try:
        yield
    finally:
        average.swap(optimizer)


def inside[**P, R](average: Average, optimizer: Optimizer, act: Callable[P, R]) -> Callable[P, R]:
    """`act`, with the mean's weights."""

    def acting(*arguments: P.args, **options: P.kwargs) -> R:
        with averaged(average, optimizer):
            return act(*arguments, **options)

    return acting


def followed[R](average: Average, optimizer: Optimizer, advance: Callable[..., R]) -> Callable[..., R]:
    """`advance`, whose every step the mean follows."""

    def advancing(batches: Any, *, step: int) -> R:
        updated = advance(batches, step=step)
        average.follow(optimizer, step=step)
        return updated

    return advancing
