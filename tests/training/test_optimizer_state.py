import json

import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from torch import nn

from vla_tune.training.optim import paged_adamw_32bit, parameter_groups, trainable_parameters
from vla_tune.training.optimizer_state import hyperparameter_differences, optimizer_state, restore_optimizer


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(80, 80), nn.LayerNorm(80)).to(dtype)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def adam_with_tuple(groups):
    return torch.optim.Adam(groups, lr=0.01, betas=(0.8, 0.9))


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def adamw_8bit(groups):
    return AdamW8bit(groups, lr=0.01, min_8bit_size=1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [adam_with_tuple, sgd, adamw_8bit])
def test_continues_with_the_same_bits(build, dtype: torch.dtype) -> None:
    straight = network(dtype)
    optimizer = build(parameter_groups(straight))
    take_steps(straight, optimizer, range(3))
    tensors, record = optimizer_state(optimizer, trainable_parameters(straight))
    tensors = {name: value.clone() for name, value in tensors.items()}
    middle = {name: value.clone() for name, value in straight.state_dict().items()}
    take_steps(straight, optimizer, range(3, 6))

    resumed = network(dtype)
    resumed.load_state_dict(middle)
    other = build(parameter_groups(resumed))
    restore_optimizer(other, trainable_parameters(resumed), tensors=tensors, record=json.loads(json.dumps(record)))
    take_steps(resumed, other, range(3, 6))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert other.param_groups[0].keys() == optimizer.param_groups[0].keys()


def test_state_wider_than_its_parameter_is_not_cast() -> None:
    """`Optimizer.load_state_dict` would make the float32 momentum of a bfloat16 parameter bfloat16."""
    model = network(torch.bfloat16)
    optimizer = sgd(parameter_groups(model))
    name, parameter = next(iter(trainable_parameters(model).items()))
    momentum = torch.full(parameter.shape, 1 / 3)
    optimizer.state[parameter]["momentum_buffer"] = momentum
    tensors, record = optimizer_state(optimizer, trainable_parameters(model))
    other = sgd(parameter_groups(model))
    restore_optimizer(other, trainable_parameters(model), tensors=tensors, record=record)
    assert torch.equal(other.state[parameter]["momentum_buffer"], momentum), name


def test_hyperparameters_stay_those_of_now_and_differences_are_named() -> None:
    """But for the rate, which a schedule moves."""
    model = network(torch.float32)
    optimizer = adam_with_tuple(parameter_groups(model))
    optimizer.param_groups[0]["lr"] = 0.123
    record = json.loads(json.dumps(optimizer_state(optimizer, trainable_parameters(model))[1]))
    other = adam_with_tuple(parameter_groups(model))
    rate = other.param_groups[0]["lr"]
    assert hyperparameter_differences(other, record) == []
    other.param_groups[0]["betas"] = (0.8, 0.99)
    restore_optimizer(other, trainable_parameters(model), tensors={}, record=record)
    assert other.param_groups[0]["lr"] == rate != 0.123
    assert other.param_groups[0]["betas"] == (0.8, 0.99)
    assert hyperparameter_differences(other, record) == ["optimizer.betas was (0.8, 0.9) and is (0.8, 0.99)"]


def test_another_optimizer_or_other_parameters_are_refused() -> None:
    model = network(torch.float32)
    record = optimizer_state(sgd(parameter_groups(model)), trainable_parameters(model))[1]
    with pytest.raises(ValueError, match="holds the state of SGD, the run wants Adam"):
        restore_optimizer(adam_with_tuple(parameter_groups(model)), trainable_parameters(model), tensors={}, record=record)
    model[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="other parameters"):
        restore_optimizer(sgd(parameter_groups(model)), trainable_parameters(model), tensors={}, record=record)


def test_paged_states_stay_in_the_memory_that_the_optimizer_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that memory is managed by CUDA; a tensor of another kind in its place would be read as if it were."""
    model = network(torch.float32)
    groups = parameter_groups(model)
    optimizer = paged_adamw_32bit(groups, learning_rate=0.01, weight_decay=0.0)
    take_steps(model, optimizer, range(2))
    tensors, record = optimizer_state(optimizer, trainable_parameters(model))

    def page(parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        made = torch.zeros_like(parameter, dtype=dtype)
        made.is_paged = True
        return made

    other = paged_adamw_32bit(parameter_groups(model), learning_rate=0.01, weight_decay=0.0)
    other.is_paged = True
    monkeypatch.setattr(other, "get_state_buffer", page)
    restore_optimizer(other, trainable_parameters(model), tensors=tensors, record=json.loads(json.dumps(record)))
    for parameter, state in optimizer.state.items():
        assert other.state[parameter]["state1"].is_paged
        assert torch.equal(other.state[parameter]["state1"], state["state1"])
        assert other.state[parameter]["step"] == 2
