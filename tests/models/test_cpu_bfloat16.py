import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vla_tune.models.cpu_bfloat16 import InFloat32, quick_bfloat16


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 5))


def one_pass(network: nn.Module, images: torch.Tensor, *, again: bool) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output: torch.Tensor = checkpoint(network, images, use_reentrant=False) if again else network(images)  # pyright: ignore[reportAssignmentType]
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert images.grad is not None
    return [output.detach(), images.grad, *gradients]


@pytest.mark.parametrize("again", [False, True])
def test_forward_and_backward_are_those_of_bfloat16(network, again):
    images = torch.randn(2, 3, 16, 16)
    plain = one_pass(network, images, again=again)
    with InFloat32():
        widened = one_pass(network, images, again=again)
    assert [tensor.dtype for tensor in widened] == [tensor.dtype for tensor in plain]
    for ours, theirs in zip(widened, plain, strict=True):
        assert (ours.float() - theirs.float()).norm() <= 0.01 * theirs.float().norm()


def test_a_product_is_rounded_once():
    left, right = torch.randn(7, 300).bfloat16(), torch.randn(300, 9).bfloat16()
    with InFloat32(), torch.inference_mode():
        assert torch.equal(left @ right, (left.float() @ right.float()).bfloat16())
        assert torch.equal(nn.functional.linear(left, right.mT), (left.float() @ right.float()).bfloat16())
        batch = torch.baddbmm(torch.ones(1, 7, 9).bfloat16(), left[None], right[None], alpha=2)
        assert torch.equal(batch[0], (1 + 2 * (left.float() @ right.float())).bfloat16())


def test_other_operations_and_dtypes_are_left_alone():
    values = torch.randn(4, 4)
    with InFloat32():
        assert torch.equal(values @ values, torch.mm(values, values))
        assert (values.bfloat16() + 1).dtype == torch.bfloat16
        assert (values.double() @ values.double()).dtype == torch.float64


def test_a_device_that_multiplies_bfloat16_does_so_itself(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    with quick_bfloat16("cpu") as entered:
        assert entered is None
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with quick_bfloat16("cpu") as entered:
        assert isinstance(entered, InFloat32)
    with quick_bfloat16("cuda") as entered:
        assert entered is None
