"""Changes that make a run fit, those that cost the least speed first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vla_tune.plan.plan import Plan, make_plan
from vla_tune.plan.states import StateBytes


@dataclass(frozen=True)
class Change:
    """Overrides that a user can type, and the plan with them."""

    overrides: tuple[str, ...]
    plan: Plan


def best(changes: Sequence[Change], *, count: int = 3) -> list[Change]:
    """Of the changes that fit, the fastest `count`; none that holds a smaller one which fits as well.

    Where speeds are not known, fewer and earlier changes come first.
    """
    fitting = [change for change in changes if change.plan.fits]
    least = [change for change in fitting if not any(_within(other, change) for other in fitting)]
    return sorted(least, key=_cost)[:count]


def _within(other: Change, change: Change) -> bool:
    return set(other.overrides) < set(change.overrides)


def _cost(change: Change) -> tuple[float, int]:
    speed = change.plan.speed
    return (1 / speed.samples_per_second if speed else 0.0, len(change.overrides))


def slowdown(change: Change, plan: Plan) -> float | None:
    """Time per sample against the plan that does not fit; 1.2 takes a fifth longer."""
    if change.plan.speed is None or plan.speed is None:
        return None
    return plan.speed.samples_per_second / change.plan.speed.samples_per_second


def smaller_batches(batch_size: int) -> list[int]:
    """Those that divide `batch_size`, itself first: accumulated, a step learns from as many samples."""
    return [size for size in range(batch_size, 0, -1) if batch_size % size == 0]


def smaller(plan: Plan, batch_size: int, *, states: StateBytes, precision: str) -> Plan:
    """The same run with batches of `batch_size`, accumulated to steps of as many samples."""
    times, rest = divmod(plan.load.batch_size, batch_size)
    assert rest == 0, "a smaller batch divides the larger one"
    return make_plan(
        plan.model,
        states,
        load=replace(plan.load, batch_size=batch_size, gradient_accumulation=times * plan.load.gradient_accumulation),
        device=plan.device,
        precision=precision,
        steps=plan.steps,
        devices=plan.devices,
        sharding=plan.sharding,
        decoding_passes=plan.decoding_passes,
    )
