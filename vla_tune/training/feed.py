"""Samples -> the batches of each step, where the model is; which samples a batch holds follows from the seed and the step only."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader

from vla_tune.data.collate import Batch, collate
from vla_tune.training.metrics import Samples
from vla_tune.training.workers import START_METHOD, started


@runtime_checkable
class DrawnSamples(Protocol):
    """Samples that may be another each time they are seen."""

    def drawn(self, index: int, *, draw: tuple[int, int]) -> dict[str, Any]:
        """One sample; everything random in it follows from `draw`: the run's seed, and which sample of the run it is."""
        ...


class Rows(NamedTuple):
    """The samples of a batch."""

    rows: list[int]
    """Of the dataset."""
    first: int
    """Which sample of the run the first of them is; the others follow it."""


@dataclass(frozen=True, kw_only=True)
class StepSampler:
    """The order of the samples; it has no state, so resuming needs the step number and nothing else.

    The samples are shuffled anew in every epoch and the epochs are laid end to end: the n-th sample of a run is number n % size
    of the permutation of epoch n // size. A batch may span two epochs; no sample is dropped or repeated within an epoch.
    """

    size: int
    """Of the dataset."""
    batch_size: int
    """Samples per forward pass."""
    gradient_accumulation: int
    """Forward passes per step."""
    seed: int

    def __post_init__(self) -> None:
        for name in ("size", "batch_size", "gradient_accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def samples_per_step(self) -> int:
        """What one optimizer step sees."""
        return self.batch_size * self.gradient_accumulation

    def indices(self, step: int) -> Int[np.ndarray, " samples"]:
        """The samples of the step after `step` steps were done."""
        start = step * self.samples_per_step
        epochs, places = np.divmod(np.arange(start, start + self.samples_per_step), self.size)
        parts = [_permutation(self.seed, epoch, self.size)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
        return np.concatenate(parts)

    def batches(self, *, start: int, stop: int) -> Iterator[Rows]:
        """Batch after batch of the steps [start, stop), `gradient_accumulation` of them per step."""
        for step in range(start, stop):
            for turn, rows in enumerate(self.indices(step).reshape(self.gradient_accumulation, self.batch_size)):
                yield Rows(rows.tolist(), step * self.samples_per_step + turn * self.batch_size)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    return np.random.default_rng([seed, epoch]).permutation(size)


@dataclass(frozen=True)
class Fetched:
    """The batches of one step, and how long the loop waited for them."""

    batches: list[Batch]
    seconds: float


@dataclass(frozen=True)
class _Refused:
    """What a sample said about itself, on its way out of a worker: torch would wrap it into a page of text."""

    kind: type[Exception]
    message: str


@dataclass(frozen=True)
class _Batches:
    """Rows -> the batch that they make up."""

    samples: Samples
    pad_id: int
    seed: int

    def __getitem__(self, batch: Rows) -> Batch | _Refused:
        try:
            return collate([self._sample(row, batch.first + place) for place, row in enumerate(batch.rows)], pad_id=self.pad_id)
        except ValueError as error:
            return _Refused(ValueError, str(error))
        except OSError as error:
            return _Refused(OSError, str(error))

    def _sample(self, row: int, number: int) -> dict[str, Any]:
        if isinstance(self.samples, DrawnSamples):
            return self.samples.drawn(row, draw=(self.seed, number))
        return self.samples[row]


@contextmanager
def feed(
    samples: Samples,
    sampler: StepSampler,
    *,
    start: int,
    stop: int,
    pad_id: int,
    workers: int,
    device: torch.device | str,
) -> Iterator[Iterator[Fetched]]:
    """The batches of the steps [start, stop) on `device`, whatever the number of `workers`, processes that prepare them ahead.

    Raises:
        ValueError: a sample is refused; its own message.
        WorkerDiedError: a worker was killed; raised between two steps.
    """
    # A generator of its own: a DataLoader without one draws from torch's global generator and would change the resumed run.
    loader = DataLoader(
        _Batches(samples, pad_id, sampler.seed),  # pyright: ignore[reportArgumentType] (any map-style dataset)
        batch_size=None,
        sampler=sampler.batches(start=start, stop=stop),  # pyright: ignore[reportArgumentType] (iterated once)
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
        generator=torch.Generator().manual_seed(sampler.seed),
    )
    with started(loader) as batches:
        yield _steps(batches, count=stop - start, of=sampler.gradient_accumulation, device=device)


def _steps(batches: Iterator[Batch | _Refused], *, count: int, of: int, device: torch.device | str) -> Iterator[Fetched]:
    for _ in range(count):
        begin, fetched = time.perf_counter(), []
        for batch in islice(batches, of):
            if isinstance(batch, _Refused):
                raise batch.kind(batch.message)
            fetched.append(batch.to(device))
        yield Fetched(fetched, time.perf_counter() - begin)
