from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.training.feed import StepSampler, feed

sizes = st.integers(1, 40)


class Samples:
    """Of growing length; those that are `broken` are refused."""

    def __init__(self, broken: dict[int, Exception]) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.broken:
            raise self.broken[index]
        ids = np.arange(4 + index)
        state = np.full(2, index, np.float32)
        return {"input_ids": ids, "placeholders": ids > 9, "prompt_length": np.int64(3), "state": state}


SAMPLER = StepSampler(size=4, batch_size=1, gradient_accumulation=2, seed=0)


def test_batches_lie_where_they_are_asked_for() -> None:
    with feed(Samples({}), SAMPLER, start=0, stop=2, pad_id=0, workers=0, device="cpu") as steps:
        fetched = list(steps)
    assert [len(step.batches) for step in fetched] == [2, 2]
    assert sorted(int(batch.state[0, 0]) for step in fetched for batch in step.batches) == [0, 1, 2, 3]
    with feed(Samples({}), SAMPLER, start=0, stop=1, pad_id=0, workers=0, device="meta") as steps:
        assert {batch.input_ids.device.type for batch in next(steps).batches} == {"meta"}


@pytest.mark.parametrize("error", [ValueError("episode 1, frame 2: it is dark"), OSError("the disk is gone")])
def test_a_refused_sample_is_told_in_its_own_words(error: Exception) -> None:
    last = int(SAMPLER.indices(1)[-1])
    with feed(Samples({last: error}), SAMPLER, start=0, stop=2, pad_id=0, workers=0, device="cpu") as steps:
        next(steps)
        with pytest.raises(type(error), match=str(error)):
            next(steps)


@given(sizes, st.integers(1, 7), st.integers(1, 3), st.integers(0, 1000))
def test_every_epoch_is_a_permutation(size: int, batch_size: int, accumulation: int, seed: int) -> None:
    sampler = StepSampler(size=size, batch_size=batch_size, gradient_accumulation=accumulation, seed=seed)
    steps = -(-3 * size // sampler.samples_per_step)
    order = np.concatenate([sampler.indices(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(sizes, st.integers(1, 7), st.integers(1, 3), st.integers(0, 9))
def test_batches_from_the_middle_are_those_of_the_whole_run(size: int, batch_size: int, accumulation: int, start: int) -> None:
    sampler = StepSampler(size=size, batch_size=batch_size, gradient_accumulation=accumulation, seed=3)
    whole = list(sampler.batches(start=0, stop=10))
    assert list(sampler.batches(start=start, stop=10)) == whole[start * accumulation :]
    assert {len(batch.rows) for batch in whole} == {batch_size}
    assert [batch.first + place for batch in whole for place in range(batch_size)] == list(range(10 * sampler.samples_per_step))


@given(sizes, st.integers(1, 7), st.integers(1, 3), st.integers(0, 9))
def test_a_sample_is_looked_up_in_the_permutation_of_its_epoch(size: int, batch_size: int, accumulation: int, step: int) -> None:
    sampler = StepSampler(size=size, batch_size=batch_size, gradient_accumulation=accumulation, seed=3)
    count = batch_size * accumulation
    wanted = [np.random.default_rng([3, at // size]).permutation(size)[at % size] for at in range(step * count, (step + 1) * count)]
    assert sampler.indices(step).tolist() == wanted


def test_accumulation_splits_the_same_samples() -> None:
    """4 x 1 and 2 x 2 see the same samples in the same step."""
    one = StepSampler(size=11, batch_size=4, gradient_accumulation=1, seed=0)
    two = StepSampler(size=11, batch_size=2, gradient_accumulation=2, seed=0)
    assert [one.indices(step).tolist() for step in range(5)] == [two.indices(step).tolist() for step in range(5)]


def test_epochs_and_seeds_differ() -> None:
    sampler = StepSampler(size=50, batch_size=50, gradient_accumulation=1, seed=0)
    other = StepSampler(size=50, batch_size=50, gradient_accumulation=1, seed=1)
    assert sampler.indices(0).tolist() != sampler.indices(1).tolist()
    assert sampler.indices(0).tolist() != other.indices(0).tolist()


@pytest.mark.parametrize("name", ["size", "batch_size", "gradient_accumulation"])
def test_zero_is_refused(name: str) -> None:
    fields = {"size": 1, "batch_size": 1, "gradient_accumulation": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        StepSampler(**fields, seed=0)
