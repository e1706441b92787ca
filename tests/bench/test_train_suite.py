"""Measuring training trains."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.adapters import Full, Lora
from vla_tune.bench.train_suite import TrainSuite, random_samples
from vla_tune.data import build_pipeline
from vla_tune.models.heads import ParallelTokenHead
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Contract
from vla_tune.training.optim import adamw


class Optimizers:
    """Makes them, and remembers them with the weights they began with."""

    def __init__(self) -> None:
        self.made: list[tuple[torch.optim.Optimizer, list[torch.Tensor]]] = []

    def __call__(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = adamw(groups, learning_rate=1e-3, weight_decay=0.0)
        self.made.append((optimizer, [parameter.detach().clone() for parameter in parameters(optimizer)]))
        return optimizer


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.fixture
def suite(checkpoint: Path) -> TrainSuite:
    lora = partial(Lora, rank=2, alpha=4, targets=["q_proj"])
    return TrainSuite(
        checkpoint=str(checkpoint),
        adapters={"full": Full(), "lora": lora(), "qlora": lora(base="nf4")},
        head=ParallelTokenHead,
        optimizer=Optimizers(),
        instructions=["lift the red block", "touch the blue block"],
        batch_size=2,
        steps=2,
        repetitions=1,
    )


@pytest.mark.ci  # a whole suite: what it is made of has tests of its own
def test_every_adapter_learns_as_many_steps_as_were_counted(suite: TrainSuite):
    rows = suite.rows()
    assert [row["work"] for row in rows] == ["full", "lora", "qlora"]
    assert {(row["suite"], row["unit"], row["amount"], row["baseline"]) for row in rows} == {("train", "samples", 4, "full")}
    sizes = []
    for optimizer, start in suite.optimizer.made:  # pyright: ignore[reportFunctionMemberAccess]
        learned = parameters(optimizer)
        assert {int(optimizer.state[parameter]["step"]) for parameter in learned if parameter in optimizer.state} == {4}
        assert any(not torch.equal(before, after) for before, after in zip(start, learned, strict=True))
        sizes.append(sum(parameter.numel() for parameter in learned))
    assert sizes[0] > sizes[1] == sizes[2]


@given(count=st.integers(1, 5), seed=st.integers(0, 1000))
def test_random_samples_pass_the_pipeline_and_follow_from_the_seed(count: int, seed: int, tiny_contract: Contract, tiny_tokenizer):
    make = partial(random_samples, tiny_contract, ["lift the red block", "touch it"], count=count)
    samples, again, others = make(seed=seed), make(seed=seed), make(seed=seed + 1)
    action, pipeline = (
        tiny_contract.statistics.action,
        build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)),
    )
    for sample, same, other in zip(samples, again, others, strict=True):
        assert sample["actions"].shape == (4, 4)
        assert (np.array(action.q01, np.float32) <= sample["actions"]).all()
        assert (sample["actions"] <= np.array(action.q99, np.float32)).all()
        assert all(np.array_equal(sample[name], same[name]) for name in sample)
        assert not np.array_equal(sample["actions"], other["actions"])
        assert (pipeline(sample)["labels"] != -100).sum() == 16
