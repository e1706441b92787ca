"""Intervals over training seeds: how often they hold what is true, and what they must never do."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_tune.evaluation.stats import wilson_interval
from vla_tune.evaluation.training_seeds import difference_over_runs, interval_of_rates, interval_over_runs

SHAPE = st.tuples(st.integers(2, 5), st.integers(4, 20))
TWO = SHAPE.flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2))
DESIGN = st.booleans()


def one_task(played):
    return np.array(["lift"] * played.shape[1])


@given(TWO, DESIGN)
def test_the_other_way_round_the_sign_changes(two, shared):
    first, second = two
    forth = difference_over_runs(first, second, one_task(first), shared=shared)
    back = difference_over_runs(second, first, one_task(first), shared=shared)
    assert back.value == pytest.approx(-forth.value)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-9)
    assert back.p_value == pytest.approx(forth.p_value)
    assert -1 <= forth.low <= forth.value <= forth.high <= 1


@given(TWO, DESIGN)
def test_equal_runs_are_equal(two, shared):
    found = difference_over_runs(two[0], two[0], one_task(two[0]), shared=shared)
    assert (found.value, found.p_value) == (0, 1)
    assert found.low < 0 < found.high


@given(TWO, DESIGN)
def test_a_rate_lies_in_its_interval_which_holds_wilsons(two, shared):
    played = two[0]
    low, high = interval_over_runs(played, one_task(played), shared=shared)
    narrow = wilson_interval(int(played.sum()), played.size)
    assert 0 <= low <= narrow[0] <= played.mean() <= narrow[1] <= high <= 1


def test_runs_that_differ_are_less_sure_than_their_episodes():
    """300 episodes, 97, 100 and 68 % of three seeds: Wilson would say 84 to 92."""
    played = np.zeros((3, 100), dtype=bool)
    for run, successes in enumerate((97, 100, 68)):
        played[run, :successes] = True
    low, high = interval_over_runs(played, one_task(played), shared=True)
    assert low < 0.5
    assert high == 1.0


def test_of_counts_alone_it_is_as_wide_as_runs_differ():
    """90, 90 and 99 %: a standard deviation of sqrt(27) points, and t = 4.303 with two degrees of freedom."""
    low, high = interval_of_rates([90, 90, 99], [100] * 3)
    half = 4.302653 * 0.0519615 / np.sqrt(3)
    assert (low, high) == pytest.approx((0.93 - half, 1.0), abs=1e-6)
    assert interval_of_rates([96], [100]) == wilson_interval(96, 100)
    assert interval_of_rates([96, 96], [100] * 2) == wilson_interval(192, 200)


def test_one_run_against_several_is_taken_as_it_is():
    rng = np.random.default_rng(0)
    base, trained = rng.random((1, 60)) < 0.2, rng.random((3, 60)) < np.array([[0.7], [0.8], [0.9]])
    found = difference_over_runs(trained, base, one_task(base), shared=True)
    assert found.low > 0.1
    assert found.p_value < 0.05


def test_what_cannot_be_said_is_refused():
    one, three = np.ones((1, 5), dtype=bool), np.ones((3, 5), dtype=bool)
    with pytest.raises(ValueError, match="one run on either side tells nothing of training seeds"):
        difference_over_runs(one, one, one_task(one), shared=True)
    with pytest.raises(ValueError, match="3 and 1 runs with starts of their own are no pairs"):
        difference_over_runs(three, one, one_task(one), shared=False)


def chance(logit):
    return 1 / (1 + np.exp(-logit))


@cache
def truth(logit: float, sd: float) -> float:
    return float(chance(logit + sd * np.random.default_rng(1).standard_normal(1_000_000)).mean())


def coverage(
    first: float, second: float, *, runs: int, starts: int, tries: int, shared: bool = True, sd: float = 0.5
) -> tuple[float, float, float]:
    """How often 95 % intervals hold the true difference and the true rate, and how often a difference is found.

    A policy's logit is its method's, a draw of its training seed (`sd`), one of the start (1), and one of the method there (0.3).
    """
    rng = np.random.default_rng(11)
    logits, whole = [np.log(rate / (1 - rate)) for rate in (first, second)], float(np.sqrt(sd**2 + 1 + 0.3**2))
    rates = [truth(float(logit), whole) for logit in logits]
    tasks, held, rate_held, told = np.array(["lift"] * starts), 0, 0, 0
    for _ in range(tries):
        hard = rng.standard_normal((1 if shared else runs, starts))
        sides = []
        for logit in logits:
            own = sd * rng.standard_normal((runs, 1)) + 0.3 * rng.standard_normal(hard.shape)
            sides.append(rng.random((runs, starts)) < chance(logit + hard + own))
        found = difference_over_runs(*sides, tasks, shared=shared)
        held += found.low <= rates[0] - rates[1] <= found.high
        told += found.p_value < 0.05
        low, high = interval_over_runs(sides[0], tasks, shared=shared)
        rate_held += low <= rates[0] <= high
    return held / tries, rate_held / tries, told / tries


@pytest.mark.parametrize("shared", [True, False])
def test_intervals_hold_what_is_true(shared: bool):
    held, rate_held, told = coverage(0.9, 0.9, runs=3, starts=50, tries=120, shared=shared)
    assert held >= 0.9
    assert rate_held >= 0.9
    assert told <= 0.1


@pytest.mark.slow  # 2,000 comparisons for each case, ten minutes in all
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("runs", [3, 4, 5])
@pytest.mark.parametrize(("first", "second"), [(0.9, 0.9), (0.7, 0.5), (0.97, 0.9)])
@pytest.mark.parametrize("starts", [50, 100])
def test_95_of_100_intervals_hold_what_is_true(first: float, second: float, runs: int, shared: bool, starts: int):
    """93 to 97 % at a seed's standard deviation of 0.5 logit, within two Monte-Carlo errors of 0.4 points."""
    held, rate_held, told = coverage(first, second, runs=runs, starts=starts, tries=2000, shared=shared)
    print(f"{first} {second} runs={runs} starts={starts} shared={shared}: {held:.3f} {rate_held:.3f} told={told:.3f}")
    assert 0.922 <= held <= 0.978
    assert 0.922 <= rate_held <= 0.978
    assert first != second or told <= 0.05 + 0.015
