"""OpenVLA-7B on the meta device (counts: openvla-spec; LoRA counts: what users' logs of the original print)."""

from functools import partial
from importlib.resources import files

import pytest
import torch
from torch import Tensor

from vla_tune.adapters import Bottleneck, Dora, Full, Lora
from vla_tune.data.collate import Batch
from vla_tune.models.base import Outline, Outlined
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.plan import Device, Load, Plan, architecture, numerics, plan_of
from vla_tune.plan.memory import activation_bytes
from vla_tune.plan.passes import training_pass
from vla_tune.training.optim import adamw

CONFIGURATION = str(files("vla_tune") / "assets" / "openvla_7b")
TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
GPU = Device(name="a large one", memory_gib=80.0, bandwidth=2e12, peak_flops=312e12)


def outline_7b() -> Outline:
    checkpoint = OpenVLACheckpoint("openvla/openvla-7b", architecture=CONFIGURATION)
    assert isinstance(checkpoint, Outlined)
    return checkpoint.outline()


def planned(rank: int, base: str, *, batch_size: int = 1, targets: tuple[str, ...] = TARGETS) -> Plan:
    return plan_of(
        outline_7b(),
        adapter=Lora(rank=rank, alpha=32, targets=targets, base=base),
        optimizer=partial(adamw, learning_rate=1e-3, weight_decay=0.0),
        load=Load(batch_size=batch_size, length=285, labels=8, cameras=1),
        device=GPU,
    )


def test_towers():
    model = architecture(outline_7b(), Full())
    assert {tower.name: tower.parameters for tower in model.towers} == {
        "vision_backbone": 303_230_976 + 427_680_704,
        "projector": 71_385_600,
        "language_model": 6_738_939_904,
    }
    assert model.total == model.trainable == 7_541_237_184
    assert len(model.blocks) == 32 + 23 + 26 + 1
    dead = model.trainable - sum(parameter.numel() for parameter in model.reached)
    assert dead == pytest.approx(43.1e6, rel=0.01)


@pytest.mark.parametrize(
    ("rank", "base", "trainable", "weights", "static"),
    [
        (16, "nf4", 31_588_352, 5.47e9, 5.98e9),
        (32, "bf16", 63_176_704, 15.08e9, 16.09e9),
        (64, "bf16", 126_353_408, 15.08e9, 17.10e9),
    ],
)
def test_static_bytes(rank: int, base: str, trainable: int, weights: float, static: float):
    plan = planned(rank, base)
    assert plan.trainable == trainable
    assert plan.total == 7_541_237_184 + trainable
    assert plan.bytes_.weights == pytest.approx(weights, rel=0.001)
    assert plan.bytes_.static == pytest.approx(static, rel=0.001)


def test_full_fine_tuning_says_what_it_assumes():
    figures = planned(16, "bf16").full_fine_tuning
    assert figures == {
        "fp32_adam": 16 * 7_541_237_184,
        "half_precision": 8 * 7_541_237_184,
        "half_precision_kahan": 10 * 7_541_237_184,
    }


def test_operations_of_a_step():
    """8.0 TFLOP a sample with frozen vision, rank 32, 285 tokens, of which 8 reach the vocabulary here."""
    plan = planned(32, "bf16", batch_size=16)
    assert plan.speed is not None
    assert plan.speed.step_flops / 16 == pytest.approx(8.0e12, rel=0.01)
    assert plan.speed.step_seconds == pytest.approx(16 * 8.0e12 / (0.4 * 312e12), rel=0.02)


def test_the_floor_of_an_action():
    """52.5 ms on an A100 with seven codes, of which the first comes with the prompt."""
    model = architecture(outline_7b(), Lora(rank=16, alpha=32, targets=TARGETS))
    from vla_tune.plan.speed import action_floor_seconds

    load = Load(batch_size=1, length=285, labels=8, cameras=1)
    assert action_floor_seconds(model, load, GPU, passes=7) == pytest.approx(52.5e-3, rel=0.05)
    assert action_floor_seconds(model, load, GPU, passes=1) == pytest.approx(13.2e-3, rel=0.05)


def test_nothing_of_it_takes_memory():
    model = outline_7b().model
    assert {parameter.device for parameter in model.parameters()} == {torch.device("meta")}


def test_a_folder_that_is_not_here():
    with pytest.raises(FileNotFoundError, match=r"no config\.json in openvla/openvla-7b: name a checkpoint folder"):
        OpenVLACheckpoint("openvla/openvla-7b").outline()


@pytest.mark.parametrize("adapter", [Bottleneck(size=4), Dora(rank=2, alpha=2, targets=["q_proj"])])
def test_an_adapter_whose_memory_is_not_known_is_refused(adapter):
    with pytest.raises(ValueError, match=f"the memory of {type(adapter).__name__} adapters is not known"):
        architecture(outline_7b(), adapter)


def loss_7b(model: OpenVLA, rows: int) -> Tensor:
    """Of one camera's 256 positions, and 29 of text, of which 8 are codes."""
    ids = torch.full((rows, 29), 5)
    batch = Batch(
        pixel_values=torch.zeros(rows, 1, 6, 224, 224),
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        placeholders=torch.zeros_like(ids, dtype=torch.bool),
        prompt_length=torch.full((rows,), 20),
        parallel=False,
        padded=False,
        state=torch.zeros(rows, 7),
    )
    return model.vocabulary_logits(model(batch)[:, -9:-1].flatten(0, 1)).logsumexp(dim=-1).mean()


@pytest.mark.ci  # seconds
def test_a_pass_that_is_run_without_memory_keeps_what_the_formulas_say():
    """3.24 GB of two samples, by two ways that share nothing."""
    described = outline_7b()
    model = architecture(described, Lora(rank=32, alpha=32, targets=TARGETS))
    load = Load(batch_size=2, length=285, labels=8, cameras=1)
    formulas = activation_bytes(model, load, numerics("bf16", precision="bf16", device="cuda"))
    assert formulas == pytest.approx(training_pass(described.model, loss_7b, 2, autocast=True).kept, rel=0.01)
    assert formulas == pytest.approx(3.24e9, rel=0.01)
