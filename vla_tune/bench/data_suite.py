"""How fast samples come out of a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vla_tune.bench.measure import Row, Work, measure
from vla_tune.data import build_pipeline
from vla_tune.data.dataset import ChunksByTimestamp, Demonstrations
from vla_tune.data.sources import Source
from vla_tune.data.transforms import Samples, Transformed
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.load import load_tokenizer
from vla_tune.schema import Contract

_CACHED_PASSES = 20
"""One takes a few milliseconds."""


@dataclass(frozen=True, kw_only=True)
class DataSuite:
    """Frames per second in shuffled order: from disk, from memory, and through the pipeline of a policy.

    "first pass" decodes pictures from a dataset that was just opened (its files are in the system's cache: they were read before);
    "cached" reads the same samples again, 20 times; "pipeline" also resizes, normalises, encodes and tokenises them.
    """

    checkpoint: str
    """Folder of a policy, whose contract and tokenizer the pipeline has."""
    sources: Mapping[str, Source]
    """By how the pictures are stored."""
    repetitions: int
    seed: int = 0

    def rows(self) -> list[Row]:
        """Three rows for each source."""
        contract = Contract.load(Path(self.checkpoint))
        pipeline = build_pipeline(contract, OpenVLAInputs.of(contract, load_tokenizer(Path(self.checkpoint))))
        works: list[Work] = []
        for name, source in self.sources.items():
            cached = _open(source, contract)
            piped = Transformed(cached, pipeline)
            works += [
                self._reading(f"{name}: first pass", partial(_open, source, contract)),
                self._reading(f"{name}: cached", lambda samples=cached: samples, passes=_CACHED_PASSES),
                self._reading(f"{name}: pipeline", lambda samples=piped: samples),
            ]
        return measure("data", works, repetitions=self.repetitions)

    def _reading(self, name: str, prepare: Callable[[], Samples], *, passes: int = 1) -> Work:
        return Work(name=name, unit="frames", prepare=prepare, do=partial(read_all, seed=self.seed, passes=passes))


def read_all(samples: Samples, *, seed: int, passes: int = 1) -> int:
    """Read every sample `passes` times, in an order that follows from the seed; returns how many were read."""
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    for _ in range(passes):
        for index in order:
            samples[index]
    return passes * len(samples)


def _open(source: Source, contract: Contract) -> Demonstrations:
    return source.open(contract.embodiment, ChunksByTimestamp(contract.horizon))
