"""An optimizer's state as tensors and JSON, by parameter name: no pickle, and no cast on the way back."""

from collections.abc import Mapping
from typing import Any

from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import Tensor, nn
from torch.optim import Optimizer

_JOIN = "::"  # between a parameter's name and its state's; no module name holds a colon
_NAMES = {"initial_lr": "learning_rate", "eps": "epsilon"}
"""torch's names -> ours."""


def optimizer_state(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state tensors as `name::key`, and everything else as JSON data.

    `Optimizer.state_dict` is passed by: its way back casts the state to the parameter's dtype, which is not bit for bit.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            kept = tensors if isinstance(value, Tensor) else values
            kept[f"{names[id(parameter)]}{_JOIN}{key}"] = value
    groups = [group | {"params": [names[id(parameter)] for parameter in group["params"]]} for group in optimizer.param_groups]
    on_host = sorted(key for key, value in tensors.items() if value.device.type == "cpu")
    return tensors, {"kind": type(optimizer).__name__, "groups": groups, "values": values, "on_host": on_host}


def restore_optimizer(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], *, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Give a fresh optimizer the state that `optimizer_state` returned; its hyper-parameters stay its own.

    Raises:
        ValueError: it is another optimizer, or its groups hold other parameters.
    """
    _check_groups(optimizer, parameters, record)
    on_host = set(record["on_host"])
    paged = _paged_buffers(optimizer, parameters)
    for key, value in tensors.items():
        name, field = key.split(_JOIN)
        if key in paged:
            paged[key].copy_(value)
            continue
        device = "cpu" if key in on_host else parameters[name].device
        optimizer.state[parameters[name]][field] = value.to(device)
    for key, value in record["values"].items():
        name, field = key.split(_JOIN)
        optimizer.state[parameters[name]][field] = value


def hyperparameter_differences(optimizer: Optimizer, record: Mapping[str, Any]) -> list[str]:
    """What the groups of `optimizer` say otherwise than those that were saved, but for the rate that a schedule moves."""
    found = {}
    for group, saved in zip(optimizer.param_groups, record["groups"], strict=False):
        for key, value in saved.items():
            before = _like(group.get(key), value)
            if key not in ("params", "lr") and key in group and before != group[key]:
                found.setdefault(_NAMES.get(key, key), (before, group[key]))
    return [f"optimizer.{key} was {was} and is {now}" for key, (was, now) in found.items()]


def _paged_buffers(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Memory that moves between GPU and computer: only the optimizer itself can make it, so its states are begun here."""
    if not (isinstance(optimizer, Optimizer8bit) and optimizer.is_paged):
        return {}
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, group_index, index)
    return {
        f"{name}{_JOIN}{field}": value
        for name, parameter in parameters.items()
        for field, value in optimizer.state[parameter].items()
        if getattr(value, "is_paged", False)
    }


def _check_groups(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], record: Mapping[str, Any]) -> None:
    if record["kind"] != type(optimizer).__name__:
        raise ValueError(
            f"The checkpoint holds the state of {record['kind']}, the run wants {type(optimizer).__name__}: "
            "resume with the same optimizer, or start a new run."
        )
    names = {id(parameter): name for name, parameter in parameters.items()}
    current = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    if current != [group["params"] for group in record["groups"]]:
        raise ValueError("The optimizer's groups hold other parameters than the checkpoint's: resume with the same adapter.")


def _like(current: Any, value: Any) -> Any:
    return tuple(value) if isinstance(current, tuple) else value  # JSON has lists only
