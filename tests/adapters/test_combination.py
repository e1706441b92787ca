"""Several adapters in one change: what each method computes, on weights that other code can compute too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.adapters.changes import Learned, LowRank
from vla_tune.adapters.combination import Combination, Dare, Linear, Ties, combined
from vla_tune.adapters.merging import merged

METHODS = [Linear(), Ties(density=0.2), Dare(drop=0.5)]


def low_rank(seed: int, *, magnitude: bool = False) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator)
    return LowRank(up, down, 0.5, torch.rand(6, generator=generator) + 1 if magnitude else None)


@given(factors=st.lists(st.floats(-2, 2), min_size=2, max_size=2), magnitude=st.booleans())
def test_linear_is_the_sum_of_what_each_adds(factors: list[float], magnitude: bool):
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(9))
    changes = [low_rank(0, magnitude=magnitude), low_rank(1)]
    made = combined([{"w": changes[0]}, {"w": changes[1]}], factors, Linear())["w"](weight)
    expected = weight + sum(factor * (change(weight) - weight) for factor, change in zip(factors, changes, strict=True))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_weight_of_one_run_alone_and_the_untouched_ones(method: Combination):
    weights = {name: torch.randn(6, 5) for name in ("one", "other", "neither")}
    changes = combined([{"one": low_rank(0)}, {"other": low_rank(1)}], [1.0, 0.0], method)
    result = merged(weights, changes, dtype=torch.float32)
    assert torch.equal(result["neither"], weights["neither"])
    assert torch.equal(result["other"], weights["other"]), "its factor is zero"
    assert not torch.equal(result["one"], weights["one"])


def test_ties_trims_elects_and_means():
    updates = torch.tensor([[4.0, -3.0, 0.1, 2.0], [2.0, 5.0, -0.2, -1.0]])
    assert Ties(density=1.0)("w", updates).tolist() == pytest.approx([3.0, 5.0, -0.2, 2.0])
    assert Ties(density=0.5)("w", updates).tolist() == [3.0, 5.0, 0.0, 0.0], "of each, the two largest"


@given(density=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_ties_of_the_same_update_twice_is_that_update_trimmed(density: float, seed: int):
    update = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
    made = Ties(density=density)("w", torch.stack([update, update]))
    kept = made != 0
    assert torch.equal(made[kept], update[kept])
    assert int(kept.sum()) == max(1, round(density * 64))
    assert update.abs()[kept].min() >= update.abs()[~kept].max() if (~kept).any() else True


def test_dare_keeps_the_mean_and_depends_on_seed_and_name_alone():
    updates = torch.ones(2, 200, 200)
    made = Dare(drop=0.9)("w", updates)
    assert made.mean() == pytest.approx(2.0, rel=0.05)
    assert sorted({round(value, 3) for value in made.unique().tolist()}) == [0.0, 10.0, 20.0], "each adapter drops its own"
    torch.manual_seed(1)
    assert torch.equal(made, Dare(drop=0.9)("w", updates))
    assert not torch.equal(made, Dare(drop=0.9, seed=1)("w", updates))
    assert not torch.equal(made, Dare(drop=0.9)("v", updates))
    assert torch.equal(Dare(drop=0.0)("w", updates), Linear()("w", updates))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_all_are_combinations(method: object):
    assert isinstance(method, Combination)


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match=r"density=0: the share"):
        Ties(density=0)
    with pytest.raises(ValueError, match=r"drop=1\.0: the share"):
        Dare(drop=1.0)
    with pytest.raises(ValueError, match=r"2 adapters and factors=\[1\.0\]"):
        combined([{}, {}], [1.0], Linear())
    with pytest.raises(ValueError, match="1 adapters and"):
        combined([{}], [1.0], Linear())
    with pytest.raises(ValueError, match="w learned in full"):
        combined([{"w": Learned(torch.ones(2))}, {}], [1.0, 1.0], Linear())
