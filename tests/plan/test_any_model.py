"""A plan of a model that no formula describes and that speaks no vocabulary: it is run without memory."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

from vla_tune.adapters import Dora, Full, Lora
from vla_tune.models.base import Outline
from vla_tune.plan import Device, Load, Plan, architecture, numerics, plan_of
from vla_tune.plan.memory import activation_bytes, backward_bytes
from vla_tune.plan.table import print_plan
from vla_tune.training.optim import adamw

GPU = Device(name="a large one", memory_gib=80.0, bandwidth=2e12, peak_flops=312e12)
LOAD = Load(batch_size=4, length=0, labels=0, cameras=1, actions=8)
LORA = Lora(rank=4, alpha=8, targets=("linear1", "linear2"), towers=("blocks",), base="fp32")
DORA = Dora(rank=4, alpha=8, targets=("linear1", "linear2"), towers=("blocks",), base="fp32")


class Flow(nn.Module):
    """A transformer over pixels, state and noisy actions, whose velocity it says (arXiv 2210.02747, eq. 23)."""

    def __init__(self, *, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.state, self.actions = nn.Linear(4, width), nn.Linear(4, width)
        layer = nn.TransformerEncoderLayer(width, width // 32, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.velocity = nn.Linear(width, 4)

    def forward(self, pixels: Tensor, state: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        seen = torch.cat([self.patches(pixels).flatten(2).mT, self.state(state)[:, None], self.actions(noisy) + time], dim=1)
        return self.velocity(self.blocks(seen)[:, -noisy.shape[1] :])


def loss_of(model: nn.Module, rows: int) -> Tensor:
    """Of actions at rest on black pictures; only the shapes matter."""
    actions, noise, time = torch.zeros(rows, 8, 4), torch.randn(rows, 8, 4), torch.rand(rows, 1, 1)
    velocity = model(torch.zeros(rows, 3, 64, 64), torch.zeros(rows, 4), noise.lerp(actions, time), time)
    return (velocity - (actions - noise)).square().mean()


def outline(**size: int) -> Outline:
    with torch.device("meta"):
        return Outline(model=Flow(**size), loss=loss_of)


def planned(model: Outline, adapter, **options) -> Plan:
    optimizer = partial(adamw, learning_rate=1e-3, weight_decay=0.0)
    return plan_of(model, adapter=adapter, optimizer=optimizer, device=GPU, load=LOAD, **options)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_torch_counts_what_is_planned(precision: str):
    """By its own tracker, on real tensors."""
    network, tracker = Flow().train(), MemTracker()
    tracker.track_external(network)
    with tracker, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = loss_of(network, 4)
        measured = tracker.get_tracker_snapshot("current")[torch.device("cpu")]
    assert loss.requires_grad
    model = architecture(outline(), Full(base="fp32"))
    plan = activation_bytes(model, LOAD, numerics("fp32", precision=precision, device="cpu"))
    assert plan == pytest.approx(measured[_MemRefType.ACT], rel=0.01)


@pytest.mark.parametrize("adapter", [Full(base="fp32"), LORA, DORA], ids=["full", "lora", "dora"])
def test_what_lives_on_the_way_is_what_is_planned(adapter, live):
    """Forward and back on real tensors, whatever the adapter adds."""
    network = Flow()
    adapter.attach(network)
    with live.without(network.train()):
        loss = loss_of(network, 4)
        kept = live.now
        loss.backward()
    model, of = architecture(outline(), adapter), numerics("fp32", precision="fp32", device="cpu")
    assert activation_bytes(model, LOAD, of) == pytest.approx(kept, rel=0.001)
    floor = max(kept, model.gradient_bytes)
    assert floor + backward_bytes(model, LOAD, of) == pytest.approx(max(live.peak, floor), rel=0.001)


def test_a_whole_plan(capsys: pytest.CaptureFixture[str]):
    plan = planned(outline(), LORA)
    tower = next(tower for tower in plan.towers if tower.name == "blocks")
    assert plan.trainable == tower.trainable == 4 * 2 * 4 * (128 + 512)
    assert plan.bytes_.weights == 4 * (plan.total - plan.trainable)
    assert plan.bytes_.acting < plan.bytes_.activations < plan.bytes_.peak
    assert plan.speed is not None
    tokens, linears = 4 * (64 + 1 + 8), 4 * (4 + 8) * 128 * 128
    assert plan.speed.step_flops == pytest.approx(2 * 2 * tokens * linears, rel=0.15)  # forward, and back to the inputs
    assert plan.action_floor_seconds == pytest.approx(plan.bytes_.weights / GPU.bandwidth, rel=0.01)
    print_plan(plan, [], title="a flow model")
    printed = capsys.readouterr().out
    assert "batch 4, run without memory" in printed
    assert "not counted" not in printed


def test_a_larger_batch_takes_more():
    small, large = (
        plan_of(
            outline(),
            adapter=LORA,
            optimizer=partial(adamw, learning_rate=1e-3, weight_decay=0.0),
            device=GPU,
            load=replace(LOAD, batch_size=size, rows=size),
            precision="fp32",
        )
        for size in (4, 16)
    )
    assert large.bytes_.activations == pytest.approx(4 * small.bytes_.activations, rel=0.01)
    assert large.bytes_.acting > 3 * small.bytes_.acting


def test_sharding():
    one, two = (planned(outline(), Full(base="fp32"), devices=devices, sharding="fsdp") for devices in (1, 2))
    assert two.bytes_.weights == one.bytes_.weights // 2
    assert two.bytes_.activations == one.bytes_.activations


def test_billions_of_parameters_take_no_memory():
    large = outline(width=4096, layers=24)
    plan = planned(large, replace(LORA, base="bf16"), precision="bf16")
    assert plan.total > 4.8e9
    assert plan.bytes_.weights == pytest.approx(2 * 4.83e9, rel=0.01)
    assert plan.fits
    assert {parameter.device.type for parameter in large.model.parameters()} == {"meta"}


def test_a_loss_that_looks_at_values_is_refused():
    def looking(model: nn.Module, rows: int) -> Tensor:
        made = model.velocity(torch.zeros(rows, 128))
        return made[made > 0].mean()

    with pytest.raises(
        ValueError, match=r"loss of Flow's outline needs values in aten\.nonzero.*without choosing elements by a mask"
    ):
        planned(replace(outline(), loss=looking), LORA)


def test_without_a_loss_what_is_not_counted_is_named():
    model = architecture(replace(outline(), loss=None), LORA)
    assert model.uncounted == ("blocks",)
    assert model.head.weights == 0
    assert activation_bytes(model, LOAD, numerics("fp32", precision="fp32", device="cpu")) == 0
