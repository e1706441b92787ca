"""The base of a run: whether it can be tried beside what was trained, and what is measured of it before it learns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vla_tune.check.agreement import Agreement, Recorded, agreement
from vla_tune.models.base import ModelInterface
from vla_tune.models.precision import num_parameters
from vla_tune.run.objects import unprobed_policy
from vla_tune.run.timing import milliseconds, timed
from vla_tune.schema import CONTRACT_FILE, Contract, Embodiment, Group, same_rate


@dataclass(frozen=True, eq=False)
class Base:
    """What a base does and costs behind the contract of the run that it is for, which learned nothing yet."""

    agreement: Agreement
    """With the recorded frames on which the run will be examined."""
    parameters: int
    milliseconds: Mapping[str, float]
    """Per chunk, under its name; empty where it is not timed."""


def measured_base(model: nn.Module, contract: Contract, interface: ModelInterface, recorded: Recorded, *, device: str) -> Base:
    """Measure a base that is loaded; random numbers that training will draw stay as they are."""
    policy, parameters = unprobed_policy(model, contract, interface, rows=1, device=device), num_parameters(model)
    with torch.random.fork_rng():
        found = agreement(policy, recorded, contract)
        times = milliseconds("base", policy, recorded.seen[:1], device=device) if timed(parameters) else {}
    return Base(found, parameters, times)


def why_not_tried(folder: Path, body: Embodiment) -> str | None:
    """Why the base in `folder` is not tried on a robot; None where it acts on just such a one."""
    if not (folder / CONTRACT_FILE).is_file():
        return "The base is not tried: it has no contract.json, so it never acted."
    own = Contract.load(folder).embodiment
    if (what := _difference(own, body)) is None:
        return None
    return f"The base is not tried: the robot on which it acts ({own.name!r}) has another {what} than this one ({body.name!r})."


def _difference(own: Embodiment, body: Embodiment) -> str | None:
    """The first thing by which two robots are not one; what their parts are called does not matter."""
    reads: dict[str, Callable[[Embodiment], Any]] = {
        "action": lambda one: [_meaning(group) for group in one.action for _ in range(group.dimension)],
        "state": lambda one: [_meaning(group) for group in one.state for _ in range(group.dimension)],
        "set of cameras": lambda one: {(camera.role, camera.height, camera.width) for camera in one.cameras},
    }
    different = [what for what, read in reads.items() if read(own) != read(body)]
    different += [] if same_rate(own.control_hz, body.control_hz) else ["rate"]
    return next(iter(different), None)


def _meaning(group: Group) -> tuple[Any, ...]:
    return group.unit, group.frame, group.representation, group.rotation, group.gripper
