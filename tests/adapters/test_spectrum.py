"""Singular values from factors are those of the matrix; truncation is the best; overlaps are angles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.adapters import Dora, Lora
from vla_tune.adapters.changes import Learned, LowRank
from vla_tune.adapters.merging import merged
from vla_tune.adapters.spectrum import Spectrum, kept, overlap, rank_that_keeps, spectra, spectrum, truncated


def low_rank(out: int, inputs: int, rank: int, *, magnitude: bool = False, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, inputs, generator=generator)
    return LowRank(up, down, 0.5, torch.rand(out, generator=generator) + 0.5 if magnitude else None)


def of_values(*values: float) -> Spectrum:
    count = len(values)
    return Spectrum(torch.eye(count), torch.tensor(values), torch.eye(count), 1.0)


@given(out=st.integers(2, 9), inputs=st.integers(2, 9), rank=st.integers(1, 6), magnitude=st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_is_the_singular_value_decomposition_of_the_change(out, inputs, rank, magnitude):
    weight, change = torch.randn(out, inputs), low_rank(out, inputs, rank, magnitude=magnitude)
    found, difference = spectrum(change, weight), change(weight) - weight
    torch.testing.assert_close((found.left * found.values) @ found.right, difference, atol=1e-4, rtol=1e-4)
    count = min(len(found.values), out, inputs)
    torch.testing.assert_close(found.values[:count], torch.linalg.svdvals(difference)[:count], atol=1e-4, rtol=1e-4)
    assert found.relative_norm == pytest.approx(float(difference.norm() / weight.norm()), rel=1e-3)


def test_a_convolution_is_read_as_a_matrix():
    weight = torch.randn(6, 3, 2, 2)
    change = LowRank(torch.randn(6, 2, 1, 1), torch.randn(2, 3, 2, 2), 1.0)
    found = spectrum(change, weight)
    torch.testing.assert_close((found.left * found.values) @ found.right, change.update().flatten(1), atol=1e-5, rtol=1e-5)
    assert truncated({"weight": change}, 1)["weight"](weight).shape == weight.shape


def test_the_effective_rank_counts_equal_values_and_ignores_none():
    assert of_values(2.0, 2.0, 2.0, 0.0).effective_rank == pytest.approx(3.0)
    assert of_values(5.0, 0.0).effective_rank == pytest.approx(1.0)
    assert of_values(0.0, 0.0).effective_rank == 0.0


def test_what_a_rank_keeps():
    found = [of_values(3.0, 1.0, 0.0), of_values(1.0, 1.0, 0.0)]
    assert kept(found, 1) == pytest.approx(10 / 12)
    assert (kept(found, 2), kept(found, 0)) == (1.0, 0.0)
    assert (rank_that_keeps(found, 0.8), rank_that_keeps(found, 0.99)) == (1, 2)
    assert rank_that_keeps([], 0.99) == 0


@given(i=st.integers(1, 4), j=st.integers(1, 4))
@settings(max_examples=16, deadline=None)
def test_overlap_is_one_with_itself_and_what_is_shared_with_others(i, j):
    one, other = (spectrum(low_rank(12, 40, 4, seed=seed), torch.randn(12, 40)) for seed in (1, 2))
    assert overlap(one, one, i, j) == pytest.approx(1.0, abs=1e-4)
    assert 0 <= overlap(one, other, i, j) <= 1
    assert overlap(one, other, i, j) == pytest.approx(overlap(other, one, j, i), abs=1e-5)
    assert overlap(of_values(2.0, 1.0), of_values(1.0, 1.0), 1, 2) == pytest.approx(1.0)


@given(rank=st.integers(1, 4), magnitude=st.booleans())
@settings(max_examples=10, deadline=None)
def test_truncation_is_the_best_approximation_of_its_rank(rank, magnitude):
    weight, change = torch.randn(8, 9), low_rank(8, 9, 5, magnitude=magnitude)
    difference = change(weight) - weight
    low = truncated({"weight": change}, rank)["weight"](weight) - weight
    assert torch.linalg.matrix_rank(low, rtol=1e-4) <= rank
    values = torch.linalg.svdvals(difference)
    assert float((difference - low).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-3, abs=1e-3)


def test_only_low_rank_changes_of_a_higher_rank_are_truncated():
    changes = {"a": low_rank(4, 5, 3), "b": low_rank(4, 5, 1), "c": Learned(torch.ones(4, 5))}
    found = truncated(changes, 2)
    assert (found["b"], found["c"]) == (changes["b"], changes["c"])
    for rank in (0, 3, 9):
        with pytest.raises(ValueError, match=f"rank={rank}: the adapter's changes are of rank 3"):
            truncated(changes, rank)
    with pytest.raises(ValueError, match="are of rank 0"):
        truncated({"c": changes["c"]}, 1)


@pytest.mark.parametrize("method", [Lora, Dora])
def test_every_matrix_that_an_adapter_changes_has_one(load_base, tmp_path, method):
    model = load_base("fp32")
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adapter = method(rank=4, alpha=8, targets=["q_proj", "up_proj"], base="fp32")
    adapter.attach(model)
    for parameter in adapter.stored(model).values():
        parameter.data += 0.1
    adapter.save(tmp_path, model, base_hash="0" * 64)
    changes = adapter.changes(tmp_path, base_hash="0" * 64)
    found = spectra(changes, weights)
    assert found.keys() == changes.keys()
    assert len(found) == 8
    near = merged(weights, truncated(changes, 3), dtype=torch.float32)
    whole = merged(weights, changes, dtype=torch.float32)
    for name in found:
        lost = float((near[name] - whole[name]).norm() / (whole[name] - weights[name]).norm())
        assert lost**2 == pytest.approx(1 - kept([found[name]], 3), abs=1e-3)
