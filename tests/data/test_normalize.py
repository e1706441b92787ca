"""Scaling to [-1, 1] and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_tune.data.statistics import column_statistics
from vla_tune.data.transforms import NormalizeActions, NormalizeState, Scale
from vla_tune.schema import ColumnStatistics, Group, Normalization

SCALED: dict[bool, Normalization] = {True: "quantile", False: "none"}
GOLDEN = Path(__file__).parents[1] / "golden" / "normalisation.npz"


def statistics(**columns: Any) -> ColumnStatistics:
    width = len(next(iter(columns.values())))
    full = dict.fromkeys(("mean", "std", "min", "max", "q01", "q99"), (0.0,) * width) | {"normalization": ("quantile",) * width}
    return ColumnStatistics(**(full | {name: tuple(values) for name, values in columns.items()}))


def group(dimension: int, normalization: Normalization) -> Group:
    meaning: dict[str, Any] = {"unit": "m", "frame": "table", "representation": "delta", "rotation": "none", "gripper": None}
    return Group(name="g", dimension=dimension, normalization=normalization, **meaning)


def golden(mask: tuple[bool, ...]) -> tuple[dict[str, np.ndarray], ColumnStatistics]:
    numbers = dict(np.load(GOLDEN))
    columns = {name: numbers[f"stats_{name}"].tolist() for name in ("mean", "std", "min", "max", "q01", "q99")}
    return numbers, statistics(**columns, normalization=[SCALED[on] for on in mask])


@pytest.mark.parametrize(("case", "mask"), [("mask", (True,) * 6 + (False,)), ("nomask", (True,) * 7)])
def test_openvla_normalises_alike(case: str, mask: tuple[bool, ...]):
    """Reference: openvla's RLDS pipeline, `normalize_action_and_proprio` with BOUNDS_Q99, on TensorFlow 2.15."""
    numbers, column = golden(mask)
    assert np.abs(Scale(column).forward(numbers["actions"]) - numbers[case]).max() < 3e-6


def test_statistics_are_openvlas():
    """Reference: openvla's `get_dataset_statistics` on the same actions (float32)."""
    numbers, column = golden((True,) * 7)
    ours = column_statistics(numbers["actions"], [group(7, "quantile")], name="action")
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        assert np.allclose(getattr(ours, name), getattr(column, name), rtol=1e-5, atol=1e-6), name


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[bool]]:
    """Actions of several scales, with constant and sparse dimensions, and which dimensions are scaled."""
    number = st.floats(-1e4, 1e4, width=32)
    values = draw(arrays(np.float32, (draw(st.integers(2, 30)), 3), elements=number))
    constant = np.full((len(values), 1), draw(number), np.float32)
    return np.concatenate([values, constant], axis=1), draw(st.lists(st.booleans(), min_size=4, max_size=4))


@given(cases())
def test_inverse_undoes_forward_within_the_quantiles(case: tuple[np.ndarray, list[bool]]):
    values, mask = case
    groups = [group(1, SCALED[on]) for on in mask]
    column = column_statistics(values, groups, name="action")
    scale = Scale(column)
    scaled = scale.forward(values)
    back = scale.inverse(scaled)
    low, high = np.array(column.q01), np.array(column.q99)
    low, high = np.where(low == high, column.min, low), np.where(low == high, column.max, high)
    wanted = np.where(column.mask, np.clip(values, low, high), values)
    assert np.isfinite(scaled).all()
    assert (np.abs(scaled)[:, np.array(column.mask)] <= 1).all()
    tolerance = 2e-8 + 2e-7 * (np.abs(low) + np.abs(high) + np.abs(values))
    assert (np.abs(back - wanted) <= tolerance).all()


@given(st.floats(-1e3, 1e3, width=32), st.floats(-1, 1))
def test_a_constant_dimension_becomes_zero_and_comes_back(constant: float, predicted: float):
    scale = Scale(statistics(q01=[constant], q99=[constant], min=[constant], max=[constant]))
    assert scale.forward(np.array([[constant]], np.float32)).tolist() == [[0.0]]
    assert scale.inverse(np.array([[predicted]])).tolist() == [[np.float32(constant)]]


def test_a_sparse_dimension_is_scaled_by_its_extremes():
    """A button pressed in one frame of a thousand: both quantiles are 0."""
    values = np.zeros((1000, 1), np.float32)
    values[500] = 0.5
    scale = Scale(statistics(q01=[0.0], q99=[0.0], min=[0.0], max=[0.5]))
    scaled = scale.forward(values)
    assert scaled[500, 0] == pytest.approx(1)
    assert scaled[0, 0] == -1
    assert np.allclose(scale.inverse(scaled), values, atol=1e-7)


def test_an_unscaled_dimension_passes():
    scale = Scale(statistics(q01=[0.0, 0.0], q99=[1.0, 1.0], max=[1.0, 1.0], normalization=["quantile", "none"]))
    assert scale.forward(np.array([[0.5, 7.0]], np.float32))[0].tolist() == [pytest.approx(0, abs=1e-7), 7.0]
    assert scale.inverse(np.array([[0.0, 7.0]]))[0].tolist() == [0.5, 7.0]


def test_observations_have_no_actions_but_must_have_a_state():
    scale = Scale(statistics(q01=[0.0], q99=[2.0], max=[2.0]))
    observation = {"observation.state": np.array([1.0], np.float32)}
    assert NormalizeActions(scale)(observation) is observation
    assert NormalizeState(scale, "observation.state")(observation)["state"] == pytest.approx([0.0], abs=1e-6)
    with pytest.raises(ValueError, match=r"no 'joints', only \['observation.state'\]"):
        NormalizeState(scale, "joints")(observation)
    with pytest.raises(ValueError, match=r"shape \(2,\), the statistics are for \(1,\)"):
        NormalizeState(scale, "observation.state")({"observation.state": np.zeros(2, np.float32)})
