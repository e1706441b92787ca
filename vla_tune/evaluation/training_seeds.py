"""Rates and differences over several training runs of one method: a run that went well or badly is one draw, not its episodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Bool, Shaped

from vla_tune.evaluation.stats import PairedComparison, pairs_of, stratified_interval, wilson_interval

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One rate less another."""

    value: float
    low: float
    high: float
    p_value: float
    """Two-sided, of no difference."""


@dataclass(frozen=True, kw_only=True)
class _Spread:
    """Of one method: variances of its rate, by its runs and by chance within them."""

    runs: float
    chance: float
    degrees: float


def interval_over_runs(
    played: Bool[np.ndarray, "runs starts"], tasks: Shaped[np.ndarray, " starts"], *, shared: bool
) -> tuple[float, float]:
    """95 % bounds of the mean success rate of training runs: as wide as runs and starts differ, never narrower than Wilson's.

    Student's t with the degrees of freedom of the runs, more of them where the variance is that of the starts (Satterthwaite's, at
    most twice as many: of few runs it is not well known which variance is theirs). Of a single run, `stratified_interval` over its
    tasks, as its own table has it, where they have as many starts each.

    Args:
        played: Success of every run at every start.
        tasks: Which task a start is of.
        shared: Whether all runs met the same starts, or each its own.
    """
    rate, spread = float(played.mean()), _spread(played, tasks)
    low, high = wilson_interval(int(played.sum()), played.size)
    if not spread.degrees:
        return _of_one_run(played[0], tasks) or (low, high)
    common = max(_of_starts(played.mean(0), tasks) - spread.chance, 0.0) if shared else 0.0
    variance = spread.runs + common
    degrees = spread.degrees * (min((variance / spread.runs) ** 2, 2.0) if spread.runs else 2.0)
    half = _quantile(degrees) * sqrt(variance)
    return max(min(low, rate - half), 0.0), min(max(high, rate + half), 1.0)


def _of_one_run(success: Bool[np.ndarray, " starts"], tasks: Shaped[np.ndarray, " starts"]) -> tuple[float, float] | None:
    counts = [(int(success[tasks == name].sum()), int((tasks == name).sum())) for name in dict.fromkeys(tasks.tolist())]
    alike = len(counts) > 1 and len({episodes for _, episodes in counts}) == 1
    return stratified_interval(counts) if alike else None


def interval_of_rates(successes: Sequence[int], episodes: Sequence[int]) -> tuple[float, float]:
    """95 % bounds of the mean success rate of training runs of which only counts are known, never narrower than Wilson's.

    Student's t over the runs' rates: which starts they shared is not known, so it is a little bolder than `interval_over_runs`.

    Args:
        successes: Of each run.
        episodes: Of each run.
    """
    rate = sum(successes) / sum(episodes)
    low, high = wilson_interval(sum(successes), sum(episodes))
    if len(successes) == 1:
        return low, high
    rates = np.array(successes) / np.array(episodes)
    half = _quantile(len(rates) - 1.0) * float(rates.std(ddof=1)) / sqrt(len(rates))
    return max(min(low, rate - half), 0.0), min(max(high, rate + half), 1.0)


def difference_over_runs(
    first: Bool[np.ndarray, "first starts"],
    second: Bool[np.ndarray, "second starts"],
    tasks: Shaped[np.ndarray, " starts"],
    *,
    shared: bool,
) -> Difference:
    """The first's mean success rate minus the second's, for training runs and starts as these were drawn, with its 95 % interval.

    The variance is that of the runs of each side and, where runs met the same starts, that of the starts, less what both count
    (crossed random effects); where each pair of runs met its own starts, less their covariance over these. Student's t with the
    degrees of freedom of the runs, those of Welch and Satterthwaite where the sides have unequally many; a side of one run is taken
    for a policy that is the same in every training. Neither narrower than Newcombe's interval nor surer than McNemar's test over
    all pairs, which know chance alone.

    Args:
        first: Success of every run at every start.
        second: The other's.
        tasks: Which task a start is of.
        shared: Whether all runs met the same starts; else the runs are pairs, each with starts of its own.

    Raises:
        ValueError: both have one run, or runs with starts of their own are no pairs.
    """
    ours, theirs = _spread(first, tasks), _spread(second, tasks)
    if not ours.degrees + theirs.degrees:
        raise ValueError("one run on either side tells nothing of training seeds: pairs_of(...) compares their episodes.")
    if not shared and len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} runs with starts of their own are no pairs: name as many of both.")
    value = float(first.mean() - second.mean())
    if shared:
        starts = max(_of_starts(first.mean(0) - second.mean(0), tasks) - ours.chance - theirs.chance, 0.0)
    else:
        starts = -_covariance(first, second, tasks)
    variance = max(ours.runs + theirs.runs + starts, 0.0)
    error, degrees = sqrt(variance), _degrees(ours, theirs, variance)
    half = _quantile(degrees) * error
    pooled = _pairs(first, second)
    low, high = pooled.interval()
    return Difference(
        value=value,
        low=max(min(low, value - half), -1.0),
        high=min(max(high, value + half), 1.0),
        p_value=max(_p_value(value, error, degrees), pooled.p_value),
    )


def _spread(played: np.ndarray, tasks: np.ndarray) -> _Spread:
    """Nothing of a method of one run."""
    if len(played) == 1:
        return _Spread(runs=0.0, chance=0.0, degrees=0.0)
    count, chance = len(played), 0.0
    for share, part in _parts(played, tasks):
        starts = part.shape[1]
        left = part - part.mean(1, keepdims=True) - part.mean(0, keepdims=True) + part.mean()
        chance += share**2 * float((left**2).sum()) / max((count - 1) * (starts - 1), 1) / (count * starts)
    return _Spread(runs=float(played.mean(1).var(ddof=1)) / count, chance=chance, degrees=count - 1.0)


def _of_starts(rates: np.ndarray, tasks: np.ndarray) -> float:
    """Variance of the mean of what each start came to, within tasks."""
    return sum(share**2 * float(part.var(ddof=1)) / part.size for share, part in _parts(rates[None], tasks) if part.size > 1)


def _covariance(first: np.ndarray, second: np.ndarray, tasks: np.ndarray) -> float:
    """Twice the covariance of the two rates that comes from starts which both met."""
    total = 0.0
    for (share, ours), (_, theirs) in zip(_parts(first, tasks), _parts(second, tasks), strict=True):
        apart = (ours - ours.mean(1, keepdims=True)) * (theirs - theirs.mean(1, keepdims=True))
        total += 2 * share**2 * float(apart.sum()) / max(ours.shape[1] - 1, 1) / ours.shape[1] / len(first) ** 2
    return total


def _parts(played: np.ndarray, tasks: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Each task's share of the starts, and its columns."""
    for task in np.unique(tasks):
        chosen = tasks == task
        yield float(chosen.mean()), played[:, chosen].astype(float)


def _degrees(ours: _Spread, theirs: _Spread, variance: float) -> float:
    """Of the variance of a difference; what of it is not of runs is known well."""
    parts = sum(side.runs**2 / side.degrees for side in (ours, theirs) if side.degrees)
    if ours.degrees == theirs.degrees or not parts:
        return ours.degrees + theirs.degrees
    return max(variance**2 / parts, min(side.degrees for side in (ours, theirs) if side.degrees))


def _pairs(first: np.ndarray, second: np.ndarray) -> PairedComparison:
    """Every run of the one with every run of the other in turn, as many as the more of the two."""
    most = max(len(first), len(second))
    ours, theirs = np.resize(first, (most, first.shape[1])), np.resize(second, (most, second.shape[1]))
    return pairs_of(ours, theirs)


def _quantile(degrees: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, degrees))


def _p_value(value: float, error: float, degrees: float) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * t.sf(abs(value) / error, degrees))
