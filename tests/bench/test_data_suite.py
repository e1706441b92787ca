"""Reading a dataset: each frame once, decoded anew in every first pass."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vla_tune.bench.data_suite import DataSuite, read_all
from vla_tune.data.chunks import Chunks
from vla_tune.data.dataset import Demonstrations
from vla_tune.record.source import Recorded
from vla_tune.schema import Embodiment


class Counted:
    def __init__(self, size: int) -> None:
        self.size, self.asked = size, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked.append(index)
        return {}


@dataclass
class Opened:
    """Remembers what was opened."""

    source: Recorded
    datasets: list[Demonstrations] = field(default_factory=list)

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        self.datasets.append(self.source.open(embodiment, chunks))
        return self.datasets[-1]


@given(st.integers(1, 50), st.integers(1, 3), st.integers(0, 1000))
def test_every_sample_is_read_as_often_as_there_are_passes(size: int, passes: int, seed: int):
    samples, again = Counted(size), Counted(size)
    assert read_all(samples, seed=seed, passes=passes) == size * passes
    assert Counter(samples.asked) == dict.fromkeys(range(size), passes)
    read_all(again, seed=seed, passes=passes)
    assert again.asked == samples.asked


def test_rows_of_a_recorded_dataset(tmp_path: Path, checkpoint: Path):
    source = Opened(Recorded(str(tmp_path / "touch"), tasks=["touch"], episodes=1, seed=0))
    rows = DataSuite(checkpoint=str(checkpoint), sources={"images": source}, repetitions=2).rows()
    assert [row["work"] for row in rows] == ["images: first pass", "images: cached", "images: pipeline"]
    cached, *fresh = source.datasets
    assert [row["amount"] for row in rows] == [len(cached), 20 * len(cached), len(cached)]
    assert {(row["suite"], row["unit"], row["baseline"]) for row in rows} == {("data", "frames", "images: first pass")}
    assert len({id(dataset) for dataset in fresh}) == 3  # untimed, and two repetitions
    assert cached.chunks.horizon == 4
