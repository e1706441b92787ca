"""Success rates with their uncertainty, and paired comparisons of two policies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

Z = 1.96
"""Standard normal quantile of a two-sided 95 % interval."""


@runtime_checkable
class Outcome(Protocol):
    """What statistics need to know of an episode."""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Suite, task, episode and seed: equal where two policies met the same start."""
        ...

    @property
    def success(self) -> bool:
        """Whether the policy did what was asked."""
        ...


def wilson_interval(successes: int, episodes: int, *, z: float = Z) -> tuple[float, float]:
    """Bounds of the success probability after `successes` of `episodes`, as fractions.

    (p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n); E. B. Wilson, JASA 22 (1927), 209-212. Unlike p ± z sqrt(p(1 - p)/n)
    it stays in [0, 1] and does not collapse at 0 or n.

    Raises:
        ValueError: there are no episodes, or more successes than episodes.
    """
    if not (episodes >= 1 and 0 <= successes <= episodes):
        raise ValueError(f"{successes} successes in {episodes} episodes: need at least 1 episode and 0 to that many successes.")
    rate = successes / episodes
    centre = rate + z * z / (2 * episodes)
    spread = z * sqrt(rate * (1 - rate) / episodes + (z / (2 * episodes)) ** 2)
    scale = 1 + z * z / episodes
    # rounding may leave the bounds 1e-17 outside, and beyond the rate itself at 0 and n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return (0.0 if successes == 0 else low), (1.0 if successes == episodes else high)


def stratified_interval(tasks: Sequence[tuple[int, int]], *, z: float = Z) -> tuple[float, float]:
    """Bounds of the mean success probability over tasks, of each of which (successes, episodes) are known, all of equal weight.

    Wilson's score interval with the variance that is left within tasks: |p - P| <= z sqrt((P(1 - P) - s²)/N), where s² is the
    variance of the tasks' own probabilities (W. G. Cochran, Sampling Techniques, 3rd edition, §5.6: how difficult a task is was not
    drawn by chance). It is estimated without bias and, as it is estimated, taken only to (k - 1)/(k + 1) for k tasks. Of tasks that
    went alike it is the Wilson interval of all episodes, of others it is narrower. Its coverage is 92 % to 99 % (a test simulates
    it).

    Raises:
        ValueError: there is no task, or a task without episodes.
    """
    if not tasks:
        raise ValueError("no tasks: a mean is over at least one.")
    for successes, episodes in tasks:
        wilson_interval(successes, episodes)  # refuses what are no counts
    rates = np.array([successes / episodes for successes, episodes in tasks])
    each = len(tasks) ** 2 / sum(1 / episodes for _, episodes in tasks) / len(tasks)  # episodes of a task, their harmonic mean
    number, rate = each * len(tasks), float(rates.mean())
    between = _between_tasks(rates, each)
    scale = 1 + z * z / number
    centre = rate + z * z / (2 * number)
    spread = z * sqrt(max((rate * (1 - rate) - between * scale) / number, 0.0) + (z / (2 * number)) ** 2)
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return (0.0 if rate == 0 else max(low, 0.0)), (1.0 if rate == 1 else min(high, 1.0))


def _between_tasks(rates: Float[np.ndarray, " k"], episodes: float) -> float:
    """Variance of the tasks' success probabilities, what chance adds to that of their rates taken off."""
    if episodes <= 1:
        return 0.0
    count = len(rates)
    chance = (1 - 1 / count) * float((rates * (1 - rates)).mean()) / (episodes - 1)
    return (count - 1) / (count + 1) * max(float(rates.var()) - chance, 0.0)


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line for several tasks of one policy: the mean of their rates, with its `stratified_interval`.

    Args:
        rows: From `success_row`, one of each task.
    """
    low, high = stratified_interval([(row["successes"], row["episodes"]) for row in rows])
    return {
        "policy": rows[0]["policy"],
        "task": f"mean of {len(rows)} tasks",
        "tasks": [row["task"] for row in rows],
        "episodes": sum(row["episodes"] for row in rows),
        "successes": sum(row["successes"] for row in rows),
        "success_rate": sum(row["success_rate"] for row in rows) / len(rows),
        "wilson_low": low,
        "wilson_high": high,
    }


def of_the_trained(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the policy that was trained, or of the one that was named: the mean over its tasks, where it has several."""
    means = [row for row in rows if "tasks" in row] or rows
    return next((row for row in means if row["policy"] == "fine_tuned"), means[0])


def success_row(*, policy: str, task: str, records: Sequence[Outcome]) -> dict[str, Any]:
    """One line of the results; rates are fractions.

    Args:
        policy: Which policy, e.g. `base`, `fine_tuned`, `wrong_instruction`, `merged`.
        task: Which task, or a name for several.
        records: Its episodes, each of them once.

    Raises:
        ValueError: there are no records, or an episode occurs twice.
    """
    _by_key(records)
    successes = sum(record.success for record in records)
    low, high = wilson_interval(successes, len(records))
    return {
        "policy": policy,
        "task": task,
        "episodes": len(records),
        "successes": successes,
        "success_rate": successes / len(records),
        "wilson_low": low,
        "wilson_high": high,
    }


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Two policies on the same episodes."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def episodes(self) -> int:
        """How many episodes both played."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Success rate of the first minus that of the second."""
        return (self.only_first - self.only_second) / self.episodes

    @property
    def p_value(self) -> float:
        """Of McNemar's exact test, two-sided: how likely chance alone divides the episodes that one won so unevenly."""
        from scipy.stats import binom  # a second, which who compares nothing need not wait

        apart = self.only_first + self.only_second
        return min(1.0, 2 * float(binom.cdf(min(self.only_first, self.only_second), apart, 0.5)))

    def interval(self, *, z: float = Z) -> tuple[float, float]:
        """Bounds of the difference (R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10)."""
        first, second = self.both + self.only_first, self.both + self.only_second
        p, q, phi = first / self.episodes, second / self.episodes, self._correlation()
        p_low, p_high = wilson_interval(first, self.episodes, z=z)
        q_low, q_high = wilson_interval(second, self.episodes, z=z)
        below = _combined(p - p_low, q_high - q, phi)
        above = _combined(p_high - p, q - q_low, phi)
        return max(self.difference - below, -1.0), min(self.difference + above, 1.0)

    def _correlation(self) -> float:
        """Phi of the 2 x 2 table with Newcombe's continuity correction; 0 where a margin is empty."""
        first, second = self.both + self.only_first, self.both + self.only_second
        margins = first * (self.episodes - first) * second * (self.episodes - second)
        excess = float(self.both * self.neither - self.only_first * self.only_second)
        if excess > 0:
            excess = max(excess - self.episodes / 2, 0.0)
        return excess / sqrt(margins) if margins else 0.0


def pairs_of(first: Bool[np.ndarray, "..."], second: Bool[np.ndarray, "..."]) -> PairedComparison:
    """The table of two policies from their successes at the same starts, in one order."""
    return PairedComparison(
        both=int((first & second).sum()),
        only_first=int((first & ~second).sum()),
        only_second=int((~first & second).sum()),
        neither=int((~first & ~second).sum()),
    )


def _combined(a: float, b: float, phi: float) -> float:
    return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def _by_key(records: Sequence[Outcome]) -> dict[tuple[str, str, int, int], bool]:
    if not records:
        raise ValueError("no episodes: evaluate at least one.")
    outcomes = {record.key: record.success for record in records}
    if len(outcomes) != len(records):
        raise ValueError(f"{len(records) - len(outcomes)} episodes occur twice: a rate needs each start once.")
    return outcomes
