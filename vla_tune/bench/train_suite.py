"""How fast adapters learn."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from vla_tune.adapters import Adapter, training_context
from vla_tune.bench.measure import Row, Work, measure
from vla_tune.data import Batch, build_pipeline, collate
from vla_tune.models.heads import Head
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.load import load, load_tokenizer
from vla_tune.schema import Contract
from vla_tune.training.accelerator import accelerator_for
from vla_tune.training.optim import parameter_groups
from vla_tune.training.update import Objective, update


@dataclass(frozen=True, kw_only=True)
class TrainSuite:
    """Samples per second that go through forward pass, backward pass and optimizer, for adapters side by side.

    The batches are ready in memory, so this is the model's speed and not the data's.
    """

    checkpoint: str
    """Folder of the base."""
    adapters: Mapping[str, Adapter]
    """The first is what the others are compared with."""
    head: Callable[..., Head]
    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    instructions: Sequence[str]
    """Of the samples, in turn."""
    batch_size: int
    steps: int
    """Optimizer steps in one repetition."""
    repetitions: int
    device: str = "cpu"
    seed: int = 0

    def rows(self) -> list[Row]:
        """One row for each adapter."""
        folder = Path(self.checkpoint)
        contract = Contract.load(folder)
        interface = OpenVLAInputs.of(contract, load_tokenizer(folder), head=self.head)
        pipeline = build_pipeline(contract, interface)
        samples = [pipeline(raw) for raw in random_samples(contract, self.instructions, count=self.batch_size, seed=self.seed)]
        batch = collate(samples, pad_id=interface.pad_id)
        accelerator = accelerator_for(contract.precision, self.device)
        works = [self._work(name, adapter, interface, batch, accelerator) for name, adapter in self.adapters.items()]
        return measure("train", works, repetitions=self.repetitions)

    def _work(self, name: str, adapter: Adapter, interface: OpenVLAInputs, batch: Batch, accelerator: Accelerator) -> Work:
        torch.manual_seed(self.seed)
        model = load(self.checkpoint, base=adapter.base, device=self.device)
        adapter.attach(model)
        objective = accelerator.prepare(Objective(interface.over(model))).train()
        context = partial(training_context, model) if interface.contract.precision == "bf16" else nullcontext
        advance = partial(
            update, objective, self.optimizer(parameter_groups(model)), [batch], accelerator=accelerator, max_gradient_norm=1.0
        )
        return Work(name=name, unit="samples", do=partial(self._learn, advance=advance, context=context))

    def _learn(self, _: None, *, advance: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]]) -> int:
        with context():
            for step in range(self.steps):
                advance(step=step)
        return self.steps * self.batch_size


def random_samples(contract: Contract, instructions: Sequence[str], *, count: int, seed: int) -> list[dict[str, Any]]:
    """Raw training samples of noise, within the contract's statistics: they cost what real ones cost."""
    body, rng = contract.embodiment, np.random.default_rng(seed)
    state, action = contract.statistics.state, contract.statistics.action
    shape = (contract.horizon, body.action_dimension)
    return [
        {camera.key: rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8) for camera in body.cameras}
        | {
            body.state_key: rng.uniform(state.q01, state.q99).astype(np.float32),
            "actions": rng.uniform(action.q01, action.q99, shape).astype(np.float32),
            "action_mask": np.ones(shape, dtype=bool),
            "instruction": instructions[number % len(instructions)],
            "index": np.array([0, number]),
        }
        for number in range(count)
    ]
