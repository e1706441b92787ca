"""How fast the OpenVLA architecture learns and acts, at a size at which the original was measured too."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from vla_tune.adapters import Adapter
from vla_tune.bench.inputs import action_space, causal_batch, parallel_batch, random_model
from vla_tune.bench.measure import Row, Work, measure
from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel
from vla_tune.models.heads import AutoregressiveTokenHead, Head, ParallelTokenHead
from vla_tune.models.heads.codes import ActionRows
from vla_tune.models.heads.decoding import Watched
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.precision import set_attention
from vla_tune.training.optim import parameter_groups


@dataclass(frozen=True, kw_only=True)
class OpenVLASuite:
    """Samples per second of adapter training, and actions per second, of a random model in float32.

    The batch is as in the original's measurement: one image, a prompt, seven codes and the end. Beside the original's loss, which
    is a softmax over the vocabulary at the labelled positions, one over the action rows alone; beside decoding that computes the
    action rows only, one that computes the vocabulary; and a chunk of `horizon` actions in one pass.
    """

    config: OpenVLAConfig
    adapter: Adapter
    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    attention: str
    batch_size: int
    prompt_length: int
    steps: int
    """Optimizer steps in one repetition."""
    actions: int
    """Actions in one repetition."""
    horizon: int
    """Of the chunk that is predicted in one pass."""
    action_dimension: int
    repetitions: int
    device: str = "cpu"
    seed: int = 0

    def rows(self) -> list[Row]:
        """Five rows."""
        single = action_space(self.config, horizon=1, action_dimension=self.action_dimension)
        chunk = action_space(self.config, horizon=self.horizon, action_dimension=self.action_dimension)
        shape = {"prompt_length": self.prompt_length, "seed": self.seed}
        asked = causal_batch(self.config, single, rows=1, labelled=False, **shape)
        at_once = parallel_batch(self.config, chunk, rows=1, **shape)
        acting = self._model()
        works = [
            self._learning("LoRA", AutoregressiveTokenHead(single)),
            self._learning("LoRA, softmax over the action rows", AutoregressiveTokenHead(single, softmax=ActionRows())),
            self._acting("action", AutoregressiveTokenHead(single), acting, asked),
            self._acting("action, whole vocabulary", AutoregressiveTokenHead(single, decoder=Watched()), acting, asked),
            self._acting(f"chunk of {self.horizon}, one pass", ParallelTokenHead(chunk), acting, at_once),
        ]
        return measure("openvla", works, repetitions=self.repetitions)

    def _model(self) -> OpenVLA:
        model = random_model(self.config, dtype=torch.float32, device=self.device, seed=self.seed)
        set_attention(model, self.attention)
        return model

    def _learning(self, name: str, head: AutoregressiveTokenHead) -> Work:
        model = self._model()
        self.adapter.attach(model)
        batch = causal_batch(
            self.config, head.space, rows=self.batch_size, prompt_length=self.prompt_length, labelled=True, seed=self.seed
        )
        optimizer = self.optimizer(parameter_groups(model.train()))
        learn = learning(head.over(model), optimizer, batch.to(self.device), steps=self.steps)
        return Work(name=name, unit="samples", do=learn)

    def _acting(self, name: str, head: Head, model: OpenVLA, batch: Batch) -> Work:
        return Work(name=name, unit="actions", do=acting(head.over(model).act, batch.to(self.device), times=self.actions))


def learning(
    model: ActionModel,
    optimizer: Optimizer,
    batch: Batch,
    *,
    steps: int,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable[[None], int]:
    """What takes `steps` optimizer steps on `batch` and returns the number of samples."""

    def learn(_: None) -> int:
        for _step in range(steps):
            with context():
                loss = model.loss(batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize(batch)
        return steps * len(batch)

    return learn


def acting(act: Callable[[Batch], Any], batch: Batch, *, times: int) -> Callable[[None], int]:
    """What acts `times` times and returns that number."""

    def repeat(_: None) -> int:
        with torch.inference_mode():
            for _time in range(times):
                act(batch)
        synchronize(batch)
        return times

    return repeat


def synchronize(batch: Batch) -> None:
    """Wait until the device is done."""
    if batch.input_ids.is_cuda:
        torch.cuda.synchronize()
