"""Modules that learn in full beside an adapter."""

from dataclasses import replace

import pytest

from vla_tune.adapters import Full, Lora
from vla_tune.models.openvla.additions import Addition, Film, Proprioception, Regression
from vla_tune.plan import Load, architecture, numerics
from vla_tune.plan.memory import activation_bytes
from vla_tune.plan.speed import step_flops

LOAD = Load(batch_size=8, length=36 + 30, labels=0, cameras=1, actions=4)
CASES: dict[str, tuple[tuple[Addition, ...], str, str]] = {
    "action head": ((Regression(action_dimension=4),), "bf16", "bf16"),
    "action head, nf4": ((Regression(action_dimension=4),), "nf4", "bf16"),
    "action head, float32": ((Regression(action_dimension=4),), "fp32", "fp32"),
    "all, float32": ((Regression(action_dimension=4), Film(), Proprioception(state_dimension=4)), "fp32", "fp32"),
    "film": ((Regression(action_dimension=4), Film()), "bf16", "bf16"),
}


QUICK = {"film", "all, float32"}
"""The others say the same again, at two seconds each."""
PARAMS = [pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.ci) for name, case in CASES.items()]


@pytest.mark.parametrize(("additions", "base", "precision"), PARAMS)
def test_autograd_keeps_what_is_planned(additions: tuple[Addition, ...], base: str, precision: str, middle, lora: Lora):
    adapter, model = replace(lora, base=base), replace(middle, additions=additions)
    length = LOAD.length + any(isinstance(addition, Proprioception) for addition in additions)
    load, batch = replace(LOAD, length=length), model.batch(LOAD, codes=16)
    measured = model.kept(model.trained(adapter), replace(batch, prompt_length=batch.prompt_length - 16), precision=precision)
    described = architecture(model.outline(), adapter)
    planned = activation_bytes(described, load, numerics(base, precision=precision, device="cpu"))
    assert planned == pytest.approx(measured, rel=0.03)
    assert described.uncounted == ()


def test_parameters_and_gradients(middle, lora: Lora):
    """Additions are counted with the base, learn in float32 under every adapter, and are 4-bit under none."""
    model = replace(middle, additions=(Regression(action_dimension=4), Film()))
    plain = architecture(middle.outline(), replace(lora, base="nf4"))
    with_them = architecture(model.outline(), replace(lora, base="nf4"))
    head = 2 * 4 * 512 + (4 * 512 + 1) * 512 + 2 * (2 * 512 + 513 * 512) + 2 * 512 + 513 * 4
    film = 4 * 2 * 513 * (256 + 320)
    assert with_them.total - plain.total == with_them.trainable - plain.trainable == head + film
    assert {tower.name: tower.trainable for tower in with_them.towers}["action_head"] == head
    assert with_them.quantized == plain.quantized
    assert with_them.weight_bytes - plain.weight_bytes == 4 * (head + film)
    unreached = 2 * 513 * (256 + 320)
    assert with_them.gradient_bytes - plain.gradient_bytes == 4 * (head + film - unreached)
    part = architecture(model.outline(), Full(targets=("language_model.*",)))
    assert {tower.name: tower.trainable for tower in part.towers}["action_head"] == head


def test_operations(middle, lora: Lora):
    """Film sees one token of an image, the action head one row of an action."""
    model = replace(middle, additions=(Regression(action_dimension=4),))
    more = step_flops(architecture(model.outline(), lora), LOAD) - step_flops(architecture(middle.outline(), lora), LOAD)
    assert more == 3 * 2 * 8 * 4 * (4 * 512 * 512 + 2 * 512 * 512 + 4 * 512)
    modulated = architecture(replace(middle, additions=(Film(),)).outline(), lora)
    maps = [linear for linear in modulated.linears if linear.name.endswith((".scale", ".shift"))]
    assert len(maps) == 2 * 2 * 3, "those of the last blocks are not reached"
    assert all(LOAD.tokens(modulated, linear.inside) == 8 for linear in maps)
