"""Tests over tasks and of many candidates, as statsmodels and as printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.multitest import multipletests

from vla_tune.evaluation import PairedComparison
from vla_tune.evaluation.significance import cochran_mantel_haenszel, holm

TASK = st.builds(PairedComparison, **dict.fromkeys(("both", "only_first", "only_second", "neither"), st.integers(0, 30)))
SOME = TASK.filter(
    lambda task: task.both + task.only_first + task.only_second and task.neither + task.only_first + task.only_second
)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def tables(tasks):
    rates = [(task.both + task.only_first, task.both + task.only_second, task.episodes) for task in tasks]
    return [[[a, n - a], [c, n - c]] for a, c, n in rates]


@given(st.lists(SOME, min_size=1, max_size=6))
def test_over_tasks_is_statsmodels(tasks):
    ours, theirs = cochran_mantel_haenszel(tasks), StratifiedTable(tables(tasks))
    assert ours.statistic == pytest.approx(theirs.test_null_odds(correction=False).statistic, rel=1e-12, abs=1e-12)
    assert ours.p_value == pytest.approx(theirs.test_null_odds(correction=False).pvalue, rel=0, abs=1e-12)
    if ours.odds_ratio is not None:
        assert ours.odds_ratio == pytest.approx(theirs.oddsratio_pooled, rel=1e-12)


@given(st.lists(SOME, min_size=1, max_size=6))
def test_the_other_way_round_the_odds_are_inverse(tasks):
    turned = [
        PairedComparison(both=task.both, only_first=task.only_second, only_second=task.only_first, neither=task.neither)
        for task in tasks
    ]
    forth, back = cochran_mantel_haenszel(tasks), cochran_mantel_haenszel(turned)
    assert forth.p_value == pytest.approx(back.p_value, abs=1e-12)
    if forth.odds_ratio and back.odds_ratio:
        assert forth.odds_ratio == pytest.approx(1 / back.odds_ratio)


def test_tasks_that_all_or_none_can_do_say_nothing():
    found = cochran_mantel_haenszel([PairedComparison(both=9, only_first=0, only_second=0, neither=0)] * 2)
    assert (found.statistic, found.p_value, found.odds_ratio) == (0, 1, None)


@given(P_VALUES)
def test_holm_is_statsmodels_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1], rel=0, abs=1e-12)
    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[place] for place in order] == sorted(adjusted)


def test_holm_by_hand():
    """By hand: 5 x 0.01, 4 x 0.02, 3 x 0.03, and what follows is no smaller."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
