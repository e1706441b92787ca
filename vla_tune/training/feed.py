"""Samples -> the batches of each step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch.utils.data import DataLoader

from vla_tune.data.collate import Batch, collate
from vla_tune.training.metrics import Samples
from vla_tune.training.sampler import StepSampler


@dataclass(frozen=True)
class Fetched:
    """The batches of one step, and how long the loop waited for them."""

    batches: list[Batch]
    seconds: float


def feed(samples: Samples, sampler: StepSampler, *, start: int, stop: int, pad_id: int, workers: int) -> Iterator[Fetched]:
    """The batches of the steps [start, stop); `workers` processes prepare them ahead."""
    # A generator of its own: a DataLoader without one draws from torch's global generator and would change the resumed run.
    loader = DataLoader(
        samples,  # pyright: ignore[reportArgumentType] (any map-style dataset)
        batch_sampler=sampler.batches(start=start, stop=stop),  # pyright: ignore[reportArgumentType] (iterated once)
        collate_fn=partial(collate, pad_id=pad_id),
        num_workers=workers,
        generator=torch.Generator().manual_seed(sampler.seed),
    )
    batches = iter(loader)
    for _ in range(start, stop):
        begin = time.perf_counter()
        fetched = list(islice(batches, sampler.gradient_accumulation))
        yield Fetched(fetched, time.perf_counter() - begin)
