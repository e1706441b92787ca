"""The way of one sample and of one action through the package: how many files they enter, and how often they change the room.

`uv run pytest -s tests/test_hops.py` prints both ways (docs/concepts/data-way.md draws them).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import vla_tune
from vla_tune.adapters import Lora
from vla_tune.data import build_pipeline
from vla_tune.data.dataset import ChunksByTimestamp, Demonstrations
from vla_tune.data.transforms import Transformed
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import Observation
from vla_tune.training.accelerator import accelerator_for
from vla_tune.training.feed import StepSampler, feed
from vla_tune.training.optim import adamw, parameter_groups
from vla_tune.training.update import Objective, update

PACKAGE = Path(vla_tune.__file__).parent
BESIDE = ("training/workers.py",)
"""What watches over the processes that prepare batches; the loop's own book-keeping is left out too."""


@dataclass
class Way:
    """The functions of the package that are entered while it is watched, in order; what returns is not counted again."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    """(file below the package, function)."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        sys.setprofile(self._noted)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _noted(self, frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and (file := path.relative_to(PACKAGE).as_posix()) not in BESIDE:
            self.calls.append((file, frame.f_code.co_qualname))

    @property
    def files(self) -> list[str]:
        """Each once, in the order in which they are entered first."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    @property
    def crossings(self) -> int:
        """From one package, a folder below `vla_tune`, to another."""
        return len(list(groupby(file.partition("/")[0] for file, _ in self.calls))) - 1

    def __str__(self) -> str:
        steps = [
            f"  {file}: {', '.join(dict.fromkeys(name for _, name in calls))}"
            for file, calls in groupby(self.calls, lambda call: call[0])
        ]
        return "\n".join([f"{len(self.files)} files, {self.crossings} crossings", *steps])


@pytest.fixture
def model(tiny_model, tiny_head):
    Lora(rank=2, alpha=4, targets=["q_proj"], dropout=0.0, base="fp32").attach(tiny_model)
    return tiny_head.over(tiny_model)


@pytest.fixture
def demonstrations(tiny_contract, tmp_path: Path) -> Demonstrations:
    body, rng = tiny_contract.embodiment, np.random.default_rng(0)
    frames = [
        {
            body.cameras[0].key: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            body.state_key: np.zeros(4, np.float32),
            body.action_key: np.zeros(4, np.float32),
            "task": "lift the red block",
        }
        for _ in range(8)
    ]
    write_episodes(tmp_path / "data", [frames], embodiment=body, storage=Storage("image"))
    return Demonstrations(tmp_path / "data", embodiment=body, chunks=ChunksByTimestamp(tiny_contract.horizon))


def test_a_sample_is_short_of_turns(model, demonstrations, tiny_contract, tiny_tokenizer) -> None:
    """From its row to the update that it makes, where its episode's pictures were decoded before."""
    way, accelerator = Way(), accelerator_for("fp32", "cpu")
    objective, optimizer = Objective(model).train(), adamw(parameter_groups(model.network), learning_rate=1e-3, weight_decay=0.0)
    samples = Transformed(demonstrations, build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)))
    sampler = StepSampler(size=len(samples), batch_size=1, gradient_accumulation=1, seed=0)
    with feed(samples, sampler, start=0, stop=2, pad_id=512, workers=0, device="cpu") as steps:
        update(objective, optimizer, next(steps).batches, accelerator=accelerator, max_gradient_norm=1.0, step=1)
        with way.watched():
            update(objective, optimizer, next(steps).batches, accelerator=accelerator, max_gradient_norm=1.0, step=2)
    print(f"\nA training sample: {way}")
    assert len(way.files) <= 12, str(way)
    assert way.crossings <= 8, str(way)


def test_an_action_is_short_of_turns(model, tiny_contract, tiny_tokenizer) -> None:
    way, policy = (
        Way(),
        LocalPolicy(
            model, build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)), tiny_contract, pad_id=512, rows=1
        ),
    )
    seen = Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(4, np.float32), "lift the red block")
    policy.act([seen])
    with way.watched():
        policy.act([seen])
    print(f"\nAn action: {way}")
    assert len(way.files) <= 10, str(way)
