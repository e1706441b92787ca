"""A small dataset of pipelined samples, and a run that takes a second."""

import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vla_tune.adapters import Full, Lora
from vla_tune.models.heads import ParallelTokenHead
from vla_tune.models.nf4 import quantize
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.load import OPENVLA_NF4
from vla_tune.models.openvla.prompt import ParallelPrompt
from vla_tune.models.precision import choose_attention
from vla_tune.schema import Contract
from vla_tune.training import TrainingResult, train
from vla_tune.training.optim import adamw, warmup_cosine

TARGETS = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]


class Watched(list):
    """Samples that remember which were asked for."""

    def __init__(self, samples) -> None:
        super().__init__(samples)
        self.asked: list[int] = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(index)


@pytest.fixture
def watched() -> Callable[..., Watched]:
    """Makes them of samples."""
    return Watched


@pytest.fixture
def tiny_samples(tiny_contract: Contract, tiny_tokenizer, tiny_head: ParallelTokenHead) -> list[dict[str, Any]]:
    """Ten labelled samples of two episodes; the instruction decides the action, so that there is something to learn."""
    generator = np.random.default_rng(0)
    prompt = ParallelPrompt(tiny_tokenizer, tiny_contract.model["prompt"], num_codes=16)
    samples = []
    for number in range(10):
        episode, frame = divmod(number, 5)
        mask = np.ones((4, 4), dtype=bool)
        mask[5 - frame :] = False
        actions = np.full((4, 4), (-0.5, 0.5)[episode], dtype=np.float32)
        sample = {
            "pixel_values": generator.normal(size=(1, 3, 64, 64)).astype(np.float32),
            "state": generator.uniform(-1, 1, 4).astype(np.float32),
            "actions": actions,
            "action_mask": mask,
            "index": np.array([episode, frame]),
            "instruction": ("lift the red block", "push the green block left")[episode],
            "codes": tiny_head.space.tokenizer.encode(actions),
            "code_mask": mask.reshape(-1),
        }
        samples.append(prompt(sample))
    return samples


def _full(model: OpenVLA) -> nn.Module:
    Full().attach(model)
    return model


def _lora(model: OpenVLA) -> nn.Module:
    """With dropout, so that the random state matters."""
    torch.manual_seed(1)
    Lora(rank=4, alpha=8, targets=TARGETS, dropout=0.1, base="fp32").attach(model)
    return model


def _qlora(model: OpenVLA) -> nn.Module:
    torch.manual_seed(1)
    model = model.to(torch.bfloat16)
    choose_attention(model, "cpu")
    quantize(model, OPENVLA_NF4)
    Lora(rank=4, alpha=8, targets=TARGETS, dropout=0.1, base="nf4").attach(model)
    return model


ADAPTATIONS = {"full": _full, "lora": _lora, "qlora": _qlora}


@pytest.fixture(params=["full", "lora"])
def adapt(request) -> Callable[[OpenVLA], nn.Module]:
    """Makes a model learn, in each way that the project offers."""
    return ADAPTATIONS[request.param]


class StopAt:
    """A logger that presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.closed = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None:
        self.closed = True


class Remember:
    """A logger that keeps everything."""

    def __init__(self) -> None:
        self.lines: dict[int, dict[str, float]] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.lines[step] = dict(metrics)

    def close(self) -> None:
        pass


@pytest.fixture
def stop_at() -> type[StopAt]:
    return StopAt


@pytest.fixture
def remember() -> Remember:
    return Remember()


@pytest.fixture
def run_training(tiny_head: ParallelTokenHead, tiny_samples, tmp_path: Path) -> Callable[..., TrainingResult]:
    """`train` with small defaults; every argument can be replaced, `head` by None where the model is whole."""

    def run(model: nn.Module, **replaced: Any) -> TrainingResult:
        steps = replaced.get("steps", 6)
        defaults: dict[str, Any] = {
            "head": tiny_head,
            "samples": tiny_samples,
            "optimizer": partial(adamw, learning_rate=3e-3, weight_decay=0.01),
            "schedule": partial(warmup_cosine, warmup_steps=min(2, steps - 1), floor=0.1),
            "steps": steps,
            "batch_size": 2,
            "gradient_accumulation": 1,
            "max_gradient_norm": 1.0,
            "precision": "fp32",
            "seed": 7,
            "run": tmp_path / "run",
            "loggers": [],
            "validate_every": 100,
            "save_every": 100,
            "keep_last": 2,
            "pad_id": 512,
            "resume_command": "python scripts/train.py run=here",
        }
        options = defaults | replaced
        head = options.pop("head")
        return train(model=model if head is None else head.over(model), **options)

    return run
