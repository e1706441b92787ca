"""Planned bytes against those of real tensors."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from vla_tune.adapters import Full, Lora
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.precision import weight_report
from vla_tune.plan import Device, Load, architecture, numerics, plan_of, state_bytes, training_bytes
from vla_tune.plan.memory import acting_bytes, spread
from vla_tune.plan.states import StateBytes
from vla_tune.training.optim import adamw, adamw_8bit, paged_adamw_8bit, paged_adamw_32bit, parameter_groups

LOAD = Load(batch_size=2, length=36 + 30, labels=16, cameras=1)
GPU = numerics("bf16", precision="bf16", device="cuda")
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adamw": partial(adamw, learning_rate=1e-3, weight_decay=0.0),
    "adamw_8bit": partial(adamw_8bit, learning_rate=1e-3, weight_decay=0.0),
}
ADAPTERS: dict[str, dict[str, Any] | Full] = {"lora": {}, "qlora": {"base": "nf4"}, "full": Full()}


@pytest.mark.parametrize("optimizer", ["adamw_8bit", pytest.param("adamw", marks=pytest.mark.ci)])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_bytes_of_real_tensors(adapter: str, optimizer: str, middle, lora: Lora):
    """Weights, adapter, gradients and the optimizer's states after one step."""
    changes = ADAPTERS[adapter]
    chosen = changes if isinstance(changes, Full) else replace(lora, **changes)
    model = middle.trained(chosen)
    middle.loss(model, middle.batch(LOAD, codes=16)).backward()
    made = OPTIMIZERS[optimizer](parameter_groups(model))
    made.step()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    added = sum(parameter.nbytes for name, parameter in model.named_parameters() if ".lora_" in name)

    planned = architecture(middle.outline(), chosen)
    states = state_bytes(planned.outline.model, planned.reached, OPTIMIZERS[optimizer])
    assert planned.trainable == sum(parameter.numel() for parameter in learning)
    assert planned.weight_bytes + planned.adapter_bytes == sum(tower.bytes_ for tower in weight_report(model))
    assert planned.adapter_bytes == added
    assert planned.gradient_bytes == sum(parameter.grad.nbytes for parameter in learning if parameter.grad is not None)
    assert states.device == pytest.approx(sum(tensor.nbytes for tensor in distinct(made)), rel=0.001)
    assert states.host == 0


def distinct(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    found = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return list({tensor.data_ptr(): tensor for tensor in found}.values())


@pytest.mark.parametrize(("paged", "per_parameter"), [(paged_adamw_32bit, 8), (paged_adamw_8bit, 2)])
def test_paged_states_lie_on_the_host(paged: Callable[..., Any], per_parameter: int, middle):
    planned = architecture(middle.outline(), Full())
    states = state_bytes(planned.outline.model, planned.reached, partial(paged, learning_rate=1e-3, weight_decay=0.0))
    assert states.host == pytest.approx(per_parameter * planned.gradient_bytes / 4, rel=0.02)
    assert states.device < 0.02 * planned.gradient_bytes


def test_the_peak_is_one_of_three_moments(middle, lora: Lora):
    model = architecture(middle.outline(), lora)
    states = StateBytes(2 * model.gradient_bytes, step=model.gradient_bytes)
    once = training_bytes(model, states, LOAD, GPU)
    resident = once.weights + once.adapter + once.optimizer
    assert once.peak == resident + once.activations + once.working  # without the gradients: they are freed before
    accumulated = training_bytes(model, states, replace(LOAD, gradient_accumulation=2), GPU)
    assert accumulated.peak == once.peak + once.gradients
    many = training_bytes(model, replace(states, step=10**10), LOAD, GPU)
    assert many.peak == resident + many.gradients + 10**10


def test_checkpointing_trades_activations_for_one_block(middle, lora: Lora):
    model, states = architecture(middle.outline(), lora), StateBytes(0)
    load = replace(LOAD, batch_size=64)
    plain, again = (training_bytes(model, states, replace(load, checkpointing=each), GPU) for each in (False, True))
    assert again.activations < 0.15 * plain.activations
    assert again.working > plain.working
    assert again.peak < 0.5 * plain.peak


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("adapter", [pytest.param("lora", marks=pytest.mark.ci), "qlora"])
def test_acting_takes_no_more_than_planned(one_by_one: bool, adapter: str, middle, lora: Lora, live):
    """A pass over eight observations, with the keys and values of all layers where codes are said one after the other."""
    chosen, load = replace(lora, base="nf4" if adapter == "qlora" else "bf16"), replace(LOAD, batch_size=8, one_by_one=one_by_one)
    planned = acting_bytes(
        architecture(middle.outline(), chosen), load, numerics(chosen.base, precision="bf16", device="cpu"), rows=8
    )
    model, batch = middle.trained(chosen).eval(), middle.batch(load, codes=0 if one_by_one else 16)
    with live.without(model), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        if one_by_one:
            said = model.prefill(prompt_of(batch))
            for _ in range(load.labels):
                said = model.advance(torch.full((8,), 7), said)
        else:
            model.vocabulary_logits(model(batch)[:, -16:].flatten(0, 1))
    assert live.peak <= planned <= 2.5 * live.peak


def test_the_evaluation_may_be_the_peak(middle, lora: Lora):
    model, states = architecture(middle.outline(), lora), StateBytes(0)
    load = replace(LOAD, batch_size=1, one_by_one=True)
    few, many = (training_bytes(model, states, replace(load, rows=rows), GPU) for rows in (1, 100))
    assert many.acting > 50 * few.acting
    assert many.peak == many.weights + many.adapter + many.acting > few.peak


def test_sharding(middle, lora: Lora):
    model, states = architecture(middle.outline(), Full()), StateBytes(8 * 10**6, step=4 * 10**6)
    of = numerics("fp32", precision="bf16", device="cuda")
    one, ddp, fsdp = (
        training_bytes(model, states, LOAD, of, each) for each in (spread("fsdp", 1), spread("ddp", 4), spread("fsdp", 4))
    )
    assert one == training_bytes(model, states, LOAD, of)
    assert ddp.static == one.static
    assert ddp.working == one.working + one.gradients
    assert fsdp.static == pytest.approx(one.static / 4, abs=4)
    assert fsdp.activations < one.activations  # float32 weights are cast to bfloat16 where they lie
    assert fsdp.working > one.working
    with pytest.raises(ValueError, match="sharding='zero' is unknown: choose one of ddp, fsdp"):
        spread("zero", 2)
    with pytest.raises(ValueError, match="gpus=0"):
        spread("ddp", 0)


CASES = [("lora", False), ("qlora", False), ("qlora", True), ("full", False)]


@pytest.mark.gpu
@pytest.mark.parametrize(("adapter", "checkpointing"), CASES)
@pytest.mark.parametrize(
    "middle",
    [{"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16}],
    indirect=True,
)
def test_the_peak_on_a_gpu(adapter: str, checkpointing: bool, middle, lora: Lora):
    changes = ADAPTERS[adapter]
    chosen = changes if isinstance(changes, Full) else replace(lora, **changes)
    load = Load(batch_size=16, length=36 + 250, labels=16, cameras=1, checkpointing=checkpointing)
    device = Device(name="here", memory_gib=80.0, bandwidth=None, peak_flops=None)
    planned = plan_of(middle.outline(), adapter=chosen, optimizer=OPTIMIZERS["adamw"], load=load, device=device)
    model, batch = middle.trained(chosen, device="cuda"), middle.batch(load, codes=16, device="cuda")
    if checkpointing:
        model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model))
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        middle.loss(model, batch).backward()
        optimizer.step()
    assert planned.bytes_.peak == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
