"""Success rates with their uncertainty, and paired comparisons of two policies."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

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
