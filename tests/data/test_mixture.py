"""Datasets in fixed shares."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.data.mixture import Mixture


class Numbers:
    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        assert 0 <= index < self.length
        return {"name": self.name, "row": index}


@given(st.integers(20, 200), st.integers(1, 500), st.floats(0.1, 0.9))
def test_every_stretch_has_the_shares_and_an_epoch_has_the_first_dataset_once(first: int, second: int, share: float):
    mixture = Mixture([Numbers("a", first), Numbers("b", second)], [1 - share, share])
    samples = [mixture[index] for index in range(len(mixture))]
    assert [sample["row"] for sample in samples if sample["name"] == "a"] == list(range(first))
    for start in range(0, len(samples), 20):
        stretch = samples[start : start + 20]
        count = sum(sample["name"] == "b" for sample in stretch)
        assert abs(count - share * len(stretch)) <= 2
    rows = Counter(sample["row"] for sample in samples if sample["name"] == "b")
    assert max(rows.values()) - min(rows.values()) <= 1
    if second <= rows.total():
        assert len(rows) == second


def test_the_order_is_fixed():
    datasets = [Numbers("a", 3), Numbers("b", 10), Numbers("c", 2)]
    first, second = Mixture(datasets, [0.5, 0.25, 0.25]), Mixture(datasets, [0.5, 0.25, 0.25])
    assert [first[index] for index in range(len(first))] == [second[index] for index in range(len(second))]
    assert first.origin(0)[0] in (0, 1, 2)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [1.0, 0.0], [1.5, -0.5]])
def test_weights_are_shares(weights: list[float]):
    with pytest.raises(ValueError, match="weight"):
        Mixture([Numbers("a", 3), Numbers("b", 3)], weights)


def test_an_empty_dataset_has_no_share():
    with pytest.raises(ValueError, match=r"datasets of \[3, 0\] frames"):
        Mixture([Numbers("a", 3), Numbers("b", 0)], [0.5, 0.5])
