import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from vla_tune.evaluation import PairedComparison, pairs_of, success_row, wilson_interval
from vla_tune.evaluation.stats import mean_row, of_the_trained, stratified_interval

counts = st.integers(1, 400).flatmap(lambda episodes: st.tuples(st.integers(0, episodes), st.just(episodes)))
cells = st.tuples(*[st.integers(0, 40)] * 4).filter(any)


def paired(cell) -> PairedComparison:
    return PairedComparison(both=cell[0], only_first=cell[1], only_second=cell[2], neither=cell[3])


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [  # R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=6e-5)


@given(counts)
def test_wilson_properties(counted):
    successes, episodes = counted
    low, high = wilson_interval(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert low < high
    mirrored = wilson_interval(episodes - successes, episodes)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
    scipys = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=1e-5)  # z = 1.96 against 1.95996
    wider, narrower = wilson_interval(successes, episodes, z=2.6), wilson_interval(4 * successes, 4 * episodes)
    assert wider[0] <= low <= narrower[0] + 1e-12
    assert narrower[1] - 1e-12 <= high <= wider[1]


@pytest.mark.parametrize(("successes", "episodes"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_of_nothing(successes, episodes):
    with pytest.raises(ValueError, match=f"{successes} successes in {episodes}"):
        wilson_interval(successes, episodes)


@given(st.integers(1, 12), counts)
def test_tasks_that_went_alike_are_one(number, counted):
    successes, episodes = counted
    pooled = wilson_interval(number * successes, number * episodes)
    assert stratified_interval([counted] * number) == pytest.approx(pooled, abs=1e-12)
    mirrored = stratified_interval([(episodes - successes, episodes), (0, 7)])
    assert stratified_interval([counted, (7, 7)]) == pytest.approx(tuple(1 - bound for bound in mirrored[::-1]), abs=1e-12)


@pytest.mark.parametrize(
    "chances",
    [[0.97] * 10, [0.98] * 9 + [0.4], np.linspace(0.3, 1, 10), [0.2] * 5 + [0.95] * 5, [0.9, 0.6]],
    ids=["alike", "one fails", "spread", "two kinds", "two tasks"],
)
def test_the_mean_over_tasks_is_covered(chances):
    """In 2,000 tries of 10 episodes a task; more narrowly than by all episodes in one where the tasks differ."""
    draws = np.sort(np.random.default_rng(0).binomial(10, chances, (2000, len(chances))))
    found = {tuple(draw): stratified_interval([(int(count), 10) for count in draw]) for draw in draws}
    inside = [low <= np.mean(chances) <= high for low, high in (found[tuple(draw)] for draw in draws)]
    assert np.mean(inside) > 0.93
    for draw, (low, high) in found.items():
        whole = wilson_interval(int(sum(draw)), 10 * len(draw))
        assert high - low <= whole[1] - whole[0] + 1e-12


def test_a_mean_over_tasks_is_a_row(records_of):
    played = {"a": [1] * 9 + [0], "b": [0] * 4}
    rows = [success_row(policy="base", task=task, records=records_of(of)) for task, of in played.items()]
    row = mean_row(rows)
    low, high = row.pop("wilson_low"), row.pop("wilson_high")
    counted = {"episodes": 14, "successes": 9, "success_rate": 0.45}
    assert row == {"policy": "base", "task": "mean of 2 tasks", "tasks": ["a", "b"], **counted}
    assert low < 0.45 < high
    tuned = [of | {"policy": "fine_tuned"} for of in (*rows, mean_row(rows))]
    assert of_the_trained([*rows, mean_row(rows), *tuned]) == tuned[2]
    assert of_the_trained(rows) == rows[0]
    with pytest.raises(ValueError, match="no tasks"):
        stratified_interval([])


def test_a_row_has_the_columns_of_the_results(records_of):
    row = success_row(policy="base", task="lift", records=records_of([1] * 81 + [0] * 182))
    low, high = row.pop("wilson_low"), row.pop("wilson_high")
    assert row == {"policy": "base", "task": "lift", "episodes": 263, "successes": 81, "success_rate": 81 / 263}
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=6e-5)


def test_an_episode_counts_once(records_of):
    records = records_of([1, 0])
    with pytest.raises(ValueError, match="1 episodes occur twice"):
        success_row(policy="base", task="lift", records=[*records, records[0]])
    with pytest.raises(ValueError, match="no episodes"):
        success_row(policy="base", task="lift", records=[])


def test_the_difference_as_published():
    """Cavo et al. (2012) in M. W. Fagerland's R package contingencytables, tests of chapter 8: -0.1186 to -0.0046."""
    comparison = paired((59, 6, 16, 80))
    assert comparison.difference == pytest.approx(-0.0621, abs=5e-5)
    assert comparison.interval() == pytest.approx((-0.1186, -0.0046), abs=6e-5)


@given(cells)
def test_the_difference_lies_in_its_interval_and_changes_sign_with_the_order(cell):
    forth, back = paired(cell), paired((cell[0], cell[2], cell[1], cell[3]))
    low, high = forth.interval()
    assert -1 <= low <= forth.difference <= high <= 1
    assert back.interval() == pytest.approx((-high, -low), abs=1e-9)


@given(cells)
def test_mcnemar_is_statsmodels(cell):
    theirs = mcnemar([[cell[0], cell[1]], [cell[2], cell[3]]], exact=True).pvalue
    assert paired(cell).p_value == pytest.approx(theirs, rel=0, abs=1e-12)
    assert paired(cell).p_value == paired((cell[0], cell[2], cell[1], cell[3])).p_value


def test_mcnemar_by_hand():
    """6 and 16 of 22: twice the sum of C(22, 0) to C(22, 6), of 2**22."""
    assert paired((59, 6, 16, 80)).p_value == pytest.approx(2 * 110_056 / 2**22, abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_equal_policies_are_equal(both, neither):
    assume(both + neither > 0)
    comparison = paired((both, 0, 0, neither))
    low, high = comparison.interval()
    assert comparison.p_value == 1
    assert low <= 0 <= high
    assert low == pytest.approx(-high, abs=1e-9)


def planted(first: float, second: float, *, pairs: int, tries: int) -> float:
    """How often policies of these rates are told apart, at starts that are as hard for the one as for the other."""
    rng = np.random.default_rng(7)
    hard = rng.random((tries, pairs))
    own = rng.random((2, tries, pairs))
    shared = rng.random((tries, pairs)) < 0.3
    ours, theirs = (np.where(shared, hard, chance) < rate for chance, rate in zip(own, (first, second), strict=True))
    told = 0
    for one, other in zip(ours, theirs, strict=True):
        told += pairs_of(one, other).p_value < 0.05
    return told / tries


def test_planted_policies_are_told_apart_and_equal_ones_are_not():
    assert planted(0.5, 0.7, pairs=150, tries=60) >= 0.75
    assert planted(0.6, 0.6, pairs=150, tries=60) <= 0.12


@pytest.mark.slow  # ten thousand tests, half a minute
def test_planted_policies_are_told_apart_in_85_of_100_tries():
    """1,000 tries have a Monte-Carlo error of 1.1 points at 85 % and of 0.7 at 5 %."""
    assert planted(0.5, 0.7, pairs=150, tries=1000) >= 0.85
    for rate in (0.5, 0.7, 0.95):
        assert planted(rate, rate, pairs=150, tries=1000) <= 0.05 + 2 * 0.007


def test_policies_are_compared_start_by_start():
    first, second = np.array([1, 1, 1, 0, 0, 1], dtype=bool), np.array([1, 0, 1, 0, 1, 0], dtype=bool)
    comparison = pairs_of(first, second)
    assert comparison == PairedComparison(both=2, only_first=2, only_second=1, neither=1)
    assert comparison.episodes == 6
