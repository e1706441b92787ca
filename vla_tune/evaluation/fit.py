"""Whether environments fit the robot, and follow their seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_tune.evaluation.environments import Pool
from vla_tune.schema import Embodiment, same_rate
from vla_tune.workers import About, Tick


def check_fit(about: About, embodiment: Embodiment) -> None:
    """Refuse an environment whose actions, or whose rate, are not the embodiment's."""
    check_actions(None if about.shape is None else tuple(about.shape), embodiment)
    check_rate({} if about.control_hz is None else {"control_hz": about.control_hz}, embodiment)


def check_actions(shape: tuple[int, ...] | None, embodiment: Embodiment) -> None:
    """Refuse actions of another shape than the embodiment's."""
    if shape != (embodiment.action_dimension,):
        raise ValueError(
            f"the environment takes actions {shape}, {embodiment.name!r} has {embodiment.action_dimension} dimensions: the policy "
            "belongs to another robot."
        )


def check_rate(metadata: Mapping[str, Any], embodiment: Embodiment) -> None:
    """Refuse an environment that says that it acts at another rate (`metadata["control_hz"]`); most say nothing."""
    rate = metadata.get("control_hz")
    if isinstance(rate, int | float) and not same_rate(float(rate), embodiment.control_hz):
        raise ValueError(f"the environment acts at {rate:g} Hz, {embodiment.name!r} at {embodiment.control_hz:g} Hz.")


def check_seeding(pool: Pool, seed: int) -> None:
    """Refuse environments that start differently from the same seed (pictures aside: a GPU may draw them with some noise)."""
    first, again = (_begun(pool, seed) for _ in range(2))
    for one in (*first.values(), *again.values()):
        if not np.array_equal(one.seen.state, first[0].seen.state) or one.seen.instruction != first[0].seen.instruction:
            raise ValueError("the environment starts differently from the same seed: make reset(seed=...) decide everything.")


def _begun(pool: Pool, seed: int) -> dict[int, Tick]:
    begun: dict[int, Tick] = {}
    for row in range(pool.size):
        pool.ask(row, "begin", seed=seed, episode=0, look=False)
    while len(begun) < pool.size:
        begun |= {row: ticks[0] for row, ticks in pool.answers().items()}
    return begun
