"""What an optimizer keeps, asked of the optimizer itself on tensors without memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import Tensor, nn
from torch.optim import Optimizer

from vla_tune.training.average import Average, Last
from vla_tune.training.optim import parameter_groups

_PAGED_FROM = 100_000
"""Elements of a parameter from which bitsandbytes pages its states (0.50.2, `Optimizer8bit.get_state_buffer`)."""


@dataclass(frozen=True)
class StateBytes:
    """Where an optimizer's states lie."""

    device: int
    host: int = 0
    """Paged out to the computer's memory."""
    step: int = 0
    """Bytes that one step needs besides."""


def state_bytes(
    model: nn.Module,
    reached: Sequence[nn.Parameter],
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    average: Average = Last(),  # noqa: B008 (without a state)
) -> StateBytes:
    """Of `optimizer`, and of `average`, after the first step over the parameters of `model` that learn.

    Those not `reached` get no state.

    The model is on the meta device, so this takes no memory.
    """
    made = optimizer(parameter_groups(model))
    if isinstance(made, Optimizer8bit):
        return _bitsandbytes(made, reached, average)
    for parameter in reached:
        parameter.grad = torch.empty_like(parameter)
    made.step()
    average.follow(made, step=1)
    for parameter in reached:
        parameter.grad = None
    # Where it works on all tensors at once, the root of the second moment is a copy as large as the weights.
    return StateBytes(_size(_tensors(made)), step=max(parameter.element_size() for parameter in reached) * _count(reached))


def _bitsandbytes(optimizer: Optimizer8bit, reached: Sequence[nn.Parameter], average: Average) -> StateBytes:
    """Its step runs compiled kernels, which know no meta device; what it allocates, it allocates before."""
    paged, wanted = optimizer.is_paged, {id(parameter) for parameter in reached}
    optimizer.is_paged = False
    host: list[Tensor] = []
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if id(parameter) in wanted:
                optimizer.init_state(group, parameter, group_index, index)
                state = optimizer.state[parameter]
                host += [state["state1"], state["state2"]] if paged and parameter.numel() >= _PAGED_FROM else []
    average.follow(optimizer, step=1)
    return StateBytes(_size(_tensors(optimizer)) - _size(host), host=_size(host))


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return list({id(tensor): tensor for tensor in states}.values())


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _count(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
