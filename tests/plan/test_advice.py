from dataclasses import replace
from functools import partial

import pytest

from vla_tune.adapters import Lora
from vla_tune.plan import Device, Load, Plan, plan_of, state_bytes
from vla_tune.plan.advice import Change, best, slowdown, smaller, smaller_batches
from vla_tune.training.optim import adamw

OPTIMIZER = partial(adamw, learning_rate=1e-3, weight_decay=0.0)
LARGE = Device(name="large", memory_gib=100.0, bandwidth=1e12, peak_flops=1e14)


@pytest.fixture
def plan(middle, lora: Lora) -> Plan:
    load = Load(batch_size=8, length=66, labels=16, cameras=1)
    return plan_of(middle.outline(), adapter=lora, optimizer=OPTIMIZER, load=load, device=LARGE)


def test_the_fastest_first_and_none_that_holds_another(plan: Plan):
    slow = replace(plan, load=replace(plan.load, checkpointing=True))
    misfit = replace(plan, device=replace(LARGE, memory_gib=0.65))
    assert plan.fits
    assert not misfit.fits
    changes = [
        Change(("a", "b"), plan),
        Change(("b",), slow),
        Change(("c",), misfit),
        Change(("d",), plan),
        Change(("e", "f"), slow),
        Change(("g", "h"), slow),
    ]
    assert [change.overrides for change in best(changes)] == [("d",), ("b",), ("e", "f")]
    factor = slowdown(changes[1], plan)
    assert factor is not None
    assert 1.2 < factor < 1.6


def test_without_speeds_fewer_changes_come_first(plan: Plan):
    unknown = replace(plan, device=replace(LARGE, peak_flops=None))
    changes = [Change(("a", "b"), unknown), Change(("c",), unknown)]
    assert [change.overrides for change in best(changes)] == [("c",), ("a", "b")]
    assert slowdown(changes[0], unknown) is None


def test_smaller_batches_are_accumulated(plan: Plan):
    assert smaller_batches(12) == [12, 6, 4, 3, 2, 1]
    states = state_bytes(plan.model.outline.model, plan.model.reached, OPTIMIZER)
    half = smaller(plan, 4, states=states, precision="bf16")
    assert (half.load.batch_size, half.load.gradient_accumulation) == (4, 2)
    assert half.bytes_.activations < 0.6 * plan.bytes_.activations
    assert half.bytes_.gradients == plan.bytes_.gradients
    assert half.speed is not None
    assert plan.speed is not None
    assert half.speed.step_flops == pytest.approx(plan.speed.step_flops)
