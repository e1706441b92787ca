"""A model of another kind, in one file outside of the package: it samples its actions by flow matching, and speaks no code."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vla_tune.data import ModelPart
from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel, Loss, Outline, Wanted
from vla_tune.models.sealed import seal
from vla_tune.schema import Contract

FAMILY, WEIGHTS = "my_flow.FlowCheckpoint", "model.safetensors"
SIDE, LETTERS = 8, 128


class Flow(nn.Module):
    """x' = v(x, t, what is seen), from noise at t = 0 to actions at t = 1 (Lipman et al., arXiv 2210.02747, eq. 23)."""

    def __init__(self, horizon: int, action_dimension: int, state_dimension: int, width: int = 64) -> None:
        super().__init__()
        self.sizes = horizon, action_dimension, state_dimension
        self.words = nn.Embedding(LETTERS, 16)
        values, seen = horizon * action_dimension, 3 * SIDE * SIDE + 16 + state_dimension
        layers = {"up_proj": nn.Linear(values + 1 + seen, width), "down_proj": nn.Linear(width, values)}
        self.expert = nn.ModuleDict(layers)

    def velocity(self, actions: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        """[B T A] at [B 1 1]."""
        hidden = self.expert["up_proj"](torch.cat([actions.flatten(1), time[:, :, 0], seen], dim=1)).relu()
        return self.expert["down_proj"](hidden).unflatten(1, actions.shape[1:])

    def seen(self, batch: Batch) -> Tensor:
        """Pictures, letters in their order, and the state."""
        places = torch.arange(1, batch.input_ids.shape[1] + 1, device=batch.input_ids.device)  # the order of letters counts
        words = (self.words(batch.input_ids) * (batch.attention_mask / places)[..., None]).sum(dim=1)
        assert batch.pixel_values is not None
        return torch.cat([batch.pixel_values.flatten(1), words, batch.state], dim=1)


@dataclass(frozen=True, eq=False)
class FlowModel:
    """The two verbs."""

    network: Flow

    def loss(self, batch: Batch) -> Loss:
        assert batch.actions is not None
        assert batch.action_mask is not None
        noise, time = torch.randn_like(batch.actions), torch.rand(len(batch), 1, 1, device=batch.actions.device)
        velocity = self.network.velocity(noise.lerp(batch.actions, time), time, self.network.seen(batch))
        errors = (velocity - (batch.actions - noise)).square()
        return Loss(errors[batch.action_mask], None, batch.action_mask.nonzero()[:, 0])

    def noise(self, rows: int, generator: torch.Generator) -> Tensor:
        return torch.randn(rows, *self.network.sizes[:2], generator=generator)

    def act(self, batch: Batch, *, noise: Tensor, steps: int = 4) -> np.ndarray:
        actions, seen = noise, self.network.seen(batch)
        for step in range(steps):
            time = torch.full((len(batch), 1, 1), step / steps, device=noise.device)
            actions = actions + self.network.velocity(actions, time, seen) / steps
        return actions.detach().float().cpu().numpy()


@dataclass(frozen=True)
class Small:
    """A picture as the mean colours of its squares, and a sentence as its letters."""

    role: str

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        picture = sample["images"][self.role].astype(np.float32)
        size = len(picture) // SIDE
        squares = picture.reshape(SIDE, size, SIDE, size, 3).mean(axis=(1, 3)) / 127.5 - 1
        letters = np.array([min(ord(letter), LETTERS - 1) for letter in sample["instruction"].lower()], np.int64)
        rest = {key: value for key, value in sample.items() if key != "images"}
        return rest | {"pixel_values": squares.transpose(2, 0, 1)[None], "input_ids": letters}


@dataclass(frozen=True, eq=False)
class FlowInputs:
    """Its part of a contract, read."""

    contract: Contract
    pad_id: int = 0

    @property
    def steps(self) -> tuple[Small, ...]:
        (camera,) = self.contract.embodiment.cameras
        return (Small(camera.role),)

    def check(self, instruction: str) -> None:
        if not instruction.strip():
            raise ValueError("the instruction is empty: say what the robot should do.")

    def over(self, network: Flow) -> ActionModel:
        return FlowModel(network)


@dataclass(frozen=True)
class FlowCheckpoint:
    """A folder of its weights."""

    folder: str
    base: str = "fp32"

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def part(self, wanted: Wanted) -> ModelPart:
        if wanted.head is not None or wanted.tokens is not None:
            raise ValueError("a flow says no codes: choose head=none tokens=none.")
        return ModelPart({"family": FAMILY})

    def interface(self, contract: Contract, *, head: Callable[..., Any] | None = None) -> FlowInputs:
        if contract.model["family"] != FAMILY:
            raise ValueError(f"the contract is for a model of the family {contract.model['family']!r}.")
        return FlowInputs(contract)

    @cached_property
    def _sizes(self) -> list[int]:
        return json.loads((self.path / "config.json").read_text())["sizes"]

    def load(self, *, device: torch.device | str) -> Flow:
        network = Flow(*self._sizes)
        network.load_state_dict(load_file(self.path / WEIGHTS))
        return network.to(device).eval()

    def outline(self) -> Outline:
        with torch.device("meta"):
            network = Flow(*self._sizes)
        return Outline(model=network, loss=_of_shapes)

    def content_hash(self) -> str:
        return hashlib.sha256((self.path / WEIGHTS).read_bytes()).hexdigest()

    def weights(self) -> Mapping[str, Tensor]:
        return load_file(self.path / WEIGHTS)

    def write(self, folder: Path, tensors: Mapping[str, Tensor], contract: Contract) -> None:
        save_file({name: tensors[name].contiguous() for name in tensors}, folder / WEIGHTS)
        (folder / "config.json").write_text((self.path / "config.json").read_text())
        contract.save(folder)
        seal(folder)


def _of_shapes(network: nn.Module, rows: int) -> Tensor:
    """The loss of so many rows, from shapes alone."""
    assert isinstance(network, Flow)
    horizon, dimension, state = network.sizes
    actions, seen = torch.zeros(rows, horizon, dimension), torch.zeros(rows, 3 * SIDE * SIDE + 16 + state)
    return network.velocity(actions, torch.zeros(rows, 1, 1), seen).square().mean()


def make(folder: Path, *, horizon: int, action_dimension: int, state_dimension: int) -> None:
    """Random weights."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    sizes = [horizon, action_dimension, state_dimension]
    save_file(Flow(*sizes).state_dict(), folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"model_type": "flow", "sizes": sizes}))
