"""Each way of scaling: there and back, its equation, and dimensions that do not move."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_tune.data.statistics import column_statistics
from vla_tune.data.transforms import Scale
from vla_tune.schema import ColumnStatistics, Group, Normalization

KINDS: tuple[Normalization, ...] = get_args(Normalization)


def column(values: np.ndarray, *kinds: Normalization) -> ColumnStatistics:
    meaning: dict[str, Any] = {"unit": "m", "frame": "x", "representation": "delta", "rotation": "none", "gripper": None}
    return column_statistics(values, [Group(name="g", dimension=1, normalization=kind, **meaning) for kind in kinds], name="action")


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, tuple[Normalization, ...]]:
    """Values of two moving dimensions and a constant one, each scaled in some way."""
    number = st.floats(-1e4, 1e4, width=32)
    moving = draw(arrays(np.float32, (draw(st.integers(2, 20)), 2), elements=number))
    constant = np.full((len(moving), 1), draw(number), np.float32)
    return np.concatenate([moving, constant], axis=1), draw(st.tuples(*[st.sampled_from(KINDS)] * 3))


@given(cases())
def test_inverse_undoes_forward(case: tuple[np.ndarray, tuple[Normalization, ...]]):
    values, kinds = case
    described = column(values, *kinds)
    scale = Scale(described)
    scaled = scale.forward(values)
    assert np.isfinite(scaled).all()
    low, high = scale.bounds
    wanted = np.where(np.isin(kinds, ("quantile", "min_max")), np.clip(values, low, high), values)
    size = np.abs(low) + np.abs(high) + np.abs(values)
    tolerance = 2e-8 + 3e-7 * size * np.maximum(1, np.abs(scaled))
    assert (np.abs(scale.inverse(scaled) - wanted) <= tolerance).all()
    if kinds[2] != "none":
        assert np.allclose(scaled[:, 2], 0, atol=1e-3), "what never moves is 0"


def test_the_equations():
    values = np.random.default_rng(0).normal(3, 2, (1000, 4)).astype(np.float32)
    exact = values.astype(np.float64)
    scaled = Scale(column(values, *KINDS)).forward(values)
    low, high = np.quantile(exact[:, 0], 0.01), np.quantile(exact[:, 0], 0.99)
    assert np.allclose(scaled[:, 0], np.clip(2 * (exact[:, 0] - low) / (high - low) - 1, -1, 1), atol=1e-6)
    low, high = exact[:, 1].min(), exact[:, 1].max()
    assert np.allclose(scaled[:, 1], 2 * (exact[:, 1] - low) / (high - low) - 1, atol=1e-6)
    assert np.allclose(scaled[:, 2], (exact[:, 2] - exact[:, 2].mean()) / exact[:, 2].std(), atol=1e-6)
    assert np.abs(scaled[:, 2]).max() > 2, "not clipped"
    assert np.array_equal(scaled[:, 3], values[:, 3])


@pytest.mark.parametrize("kind", ["quantile", "min_max", "mean_std"])
def test_a_constant_comes_back_whatever_is_predicted(kind: Normalization):
    values = np.full((7, 1), 0.1, np.float32)
    scale = Scale(column(values, kind))
    assert scale.inverse(np.array([[-1.0], [0.3], [5.0]])).ravel() == pytest.approx([0.1] * 3, abs=1e-7)
