"""Tests over several tasks, and of several candidates at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from vla_tune.evaluation.stats import PairedComparison


@dataclass(frozen=True, kw_only=True)
class OverTasks:
    """What the Cochran-Mantel-Haenszel test found."""

    statistic: float
    p_value: float
    odds_ratio: float | None
    """Of the first's successes, common to all tasks (Mantel and Haenszel); None where it is infinite or nothing differs."""


def cochran_mantel_haenszel(tasks: Sequence[PairedComparison]) -> OverTasks:
    """Whether the first succeeds more often or less often than the second in the same direction over tasks of different difficulty.

    With a of n successes of the first and c of n of the second in each task: (sum(a - E))²/sum(V), E = (a + c)/2 and
    V = (a + c)(2n - a - c)/(4(2n - 1)), without continuity correction; N. Mantel and W. Haenszel, JNCI 22 (1959), 719-748. Its
    strata are tasks; that both met the same starts is left out, which makes it careful where these matter.
    """
    from scipy.stats import chi2

    excess = variance = ours = theirs = 0.0
    for task in tasks:
        n, a, c = task.episodes, task.both + task.only_first, task.both + task.only_second
        excess += a - (a + c) / 2
        variance += (a + c) * (2 * n - a - c) / (4 * (2 * n - 1))
        ours += a * (n - c) / (2 * n)
        theirs += c * (n - a) / (2 * n)
    statistic = excess**2 / variance if variance else 0.0
    return OverTasks(statistic=statistic, p_value=float(chi2.sf(statistic, 1)), odds_ratio=ours / theirs if theirs else None)


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p values, each for all tests together (S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70).

    Whoever calls significant what lies below 0.05 finds, in at most 5 % of such families of tests, anything where nothing is.
    """
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted
