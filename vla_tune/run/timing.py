"""How long a policy takes for a chunk."""

import statistics
import time
from collections.abc import Sequence

from vla_tune.schema import Observation, Policy

LARGEST_TIMED = 1_000_000_000
"""Parameters from which on a run measures no times: what it would add to the run's end is better measured by itself."""
_ROUNDS = 15


def timed(parameters: int) -> bool:
    """Whether a run measures how long policies over a base of this size take."""
    return parameters < LARGEST_TIMED


def milliseconds(name: str, policy: Policy, observations: Sequence[Observation], *, device: str) -> dict[str, float]:
    """Median of several calls to `act` after a first one, under a name: CPU time on a CPU, where other work may run beside."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(1 + _ROUNDS):
        start = clock()
        policy.act(observations)
        times.append(1000 * (clock() - start))
    return {name: statistics.median(times[1:])}
