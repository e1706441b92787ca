"""One way through a model for all that does not train it: policies, validation, probes and parity see what the robot gets."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla_tune.data.collate import Batch, collate
from vla_tune.models.base import ActionModel, Loss
from vla_tune.models.capabilities import Drawing, Revealing

TEXT_BUCKET = 16
"""Text lengths are rounded up to a multiple of this many tokens."""
_SEED = 0
"""Of what a model draws where it is not trained."""


@dataclass(frozen=True, eq=False)
class Forward:
    """Passes through a model as it is deployed.

    Text is padded to whole buckets; the model is in evaluation mode, in the autocast of training, without gradients, on its own
    device. Afterwards every layer is in the mode it was in.
    """

    model: ActionModel
    pad_id: int
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Opens the autocast."""

    def __call__[R](self, read: Callable[[Batch], R], samples: Sequence[dict[str, Any]]) -> R:
        """What `read` makes of one batch of all `samples`."""
        batch = collate(samples, pad_id=self.pad_id, multiple=TEXT_BUCKET).to(device_of(self.model.network))
        with _evaluating(self.model.network), torch.inference_mode(), self.precision():
            return read(batch)

    def each(self, samples: Sequence[dict[str, Any]]) -> list[Float[np.ndarray, "T A"]]:
        """The normalised actions for each of `samples`."""
        chunks: dict[int, Float[np.ndarray, "T A"]] = {}
        for members in self._passes(samples):
            chunks |= zip(members, self(self.act, [samples[index] for index in members]), strict=True)
        return [chunks[index] for index in range(len(samples))]

    def losses(self, samples: Sequence[dict[str, Any]]) -> list[Loss]:
        """The losses of `samples`, of one text bucket after the other.

        What a model draws for its loss is the same each time, and the random numbers of training stay as they are.
        """
        device = device_of(self.model.network)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(_SEED)
            return [self(self.model.loss, [samples[index] for index in members]) for members in self._passes(samples)]

    def act(self, batch: Batch) -> Float[np.ndarray, "B T A"]:
        """Normalised actions; a model that draws is given the same draw for every row, whatever its company."""
        if not isinstance(self.model, Drawing):
            return self.model.act(batch)
        one = self.model.noise(1, torch.Generator().manual_seed(_SEED)).to(batch.input_ids.device)
        return self.model.act(batch, noise=one.expand(len(batch), *one.shape[1:]))

    def reaction(self, batch: Batch) -> Float[Tensor, "B ..."]:
        """What a batch leads to, as numbers in which a small change is seen."""
        return self.model.reaction(batch) if isinstance(self.model, Revealing) else torch.from_numpy(self.act(batch))

    def answer(self, batch: Batch) -> Float[Tensor, "..."]:
        """All that one pass computes for a batch."""
        return self.model.answer(batch) if isinstance(self.model, Revealing) else torch.from_numpy(self.act(batch))

    def _passes(self, samples: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
        return passes([bucket(sample) for sample in samples], len(samples))


def bucket(sample: dict[str, Any]) -> int:
    """Only samples of one bucket share a forward pass: the number of `TEXT_BUCKET`s that their text takes."""
    return -(-len(sample["input_ids"]) // TEXT_BUCKET)


def passes(kinds: Sequence[Hashable], rows: int) -> Iterator[list[int]]:
    """Which samples share a forward pass: those of one kind, at most `rows`."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        found[kind].append(index)
    for members in found.values():
        yield from (members[start : start + rows] for start in range(0, len(members), rows))


def filled[T](items: Sequence[T], rows: int) -> list[T]:
    """`rows` items: the last one is repeated."""
    return [*items, *[items[-1]] * (rows - len(items))]


def device_of(network: Any) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device if isinstance(network, nn.Module) else torch.device("cpu")


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    """The network in evaluation mode; afterwards every layer is in the mode it was in."""
    training = [module for module in network.modules() if module.training] if isinstance(network, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
