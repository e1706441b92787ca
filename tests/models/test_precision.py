import bitsandbytes.nn.modules
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from torch import nn

from vla_tune.models.precision import (
    Linear4bit,
    choose_attention,
    dequantized,
    num_parameters,
    num_quantized,
    plain_weights,
    quantize,
    report_text,
    weight_dtype,
    weight_format,
    weight_report,
)

BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Of an NF4 parameter with double quantisation (QLoRA, arXiv 2305.14314, §3)."""


class Two(nn.Module):
    """Two linear layers: a gradient at the first one passed the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(128, 64, bias=False)
        self.second = nn.Linear(64, 128)

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))


@pytest.fixture
def two() -> Two:
    torch.manual_seed(0)
    return Two()


def evaluate(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(inputs)


def input_gradient(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    inputs = inputs.clone().requires_grad_()
    model.train()
    model(inputs).square().sum().backward()
    assert inputs.grad is not None
    return inputs.grad


def test_fp16_and_unknown_formats_are_refused_with_the_alternative():
    with pytest.raises(ValueError, match=r"fp16 is refused: a CPU .* Use bf16 or fp32"):
        weight_dtype("fp16")
    with pytest.raises(ValueError, match="choose one of fp32, bf16, nf4"):
        weight_dtype("int8")


def test_format_is_read_off_the_weights(two):
    assert weight_format(two) == "fp32"
    two.first.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*torch\.float32"):
        weight_format(two)
    assert weight_format(two.to(torch.bfloat16)) == "bf16"
    quantize(two, targets=["first"])
    assert weight_format(two) == "nf4"


def test_only_the_blocks_of_the_language_model_are_4_bit(tiny_model):
    assert quantize(tiny_model) == 28  # seven in each of four blocks
    quantized = [name for name, module in tiny_model.named_modules() if isinstance(module, Linear4bit)]
    assert len(quantized) == num_quantized(tiny_model) == 28
    assert all(name.startswith("language_model.model.layers.") for name in quantized)
    assert {dict(tiny_model.named_parameters())[f"{name}.weight"].dtype for name in quantized} == {torch.uint8}


def test_targets_are_the_whole_list_and_must_match(two, tiny_model):
    assert quantize(two, targets=["second"]) == 1
    assert not isinstance(two.first, Linear4bit)
    for targets in (["self_attn"], ["projector.fc9"], []):
        with pytest.raises(ValueError, match="no"):
            quantize(tiny_model, targets=targets)
    assert num_quantized(tiny_model) == 0


def test_dequantised_weights_are_those_that_the_layer_multiplies_with(two):
    original = two.first.weight.detach().clone()
    quantize(two, targets=["first"])
    weights = dequantized(two.first.weight)
    assert weights.dtype == torch.bfloat16
    identity = torch.eye(128, dtype=torch.bfloat16)
    assert torch.equal(two.first(identity).T, weights)
    error = (weights.float() - original).norm() / original.norm()
    assert 0.05 < error < 0.15  # NF4 of a bell curve: 0.09


def test_quantising_float32_and_its_bfloat16_rounding_gives_the_same_bits(two):
    other = Two()
    other.load_state_dict({name: weight.bfloat16().float() for name, weight in two.state_dict().items()})
    for model in (two, other):
        quantize(model, targets=["*"])
    own, others = two.state_dict(), other.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)


@pytest.mark.parametrize("cpu_has_avx512_bf16", [False, True])
def test_no_evaluation_pass_ever_repacks_the_weights(two, monkeypatch, cpu_has_avx512_bf16):
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: cpu_has_avx512_bf16)
    quantize(two, targets=["*"])
    inputs = torch.randn(3, 128)
    state = {name: tensor.clone() for name, tensor in two.state_dict().items()}
    weights = {name: weight.clone() for name, weight in plain_weights(two)}
    gradient = input_gradient(two, inputs)

    evaluate(two, inputs)

    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in (two.first, two.second))
    assert all(torch.equal(tensor, state[name]) for name, tensor in two.state_dict().items())
    assert all(torch.equal(weight, weights[name]) for name, weight in plain_weights(two))
    assert gradient.any()
    assert torch.equal(input_gradient(two, inputs), gradient)


@pytest.mark.skipif(not has_avx512bf16(), reason="the trap needs a CPU with avx512_bf16")
def test_the_trap_is_real(two):
    """If this fails, bitsandbytes has repaired the path, and `_quantized` need not switch it off any more."""
    quantize(two, targets=["*"])
    two.first.support_avx512bf16_for_cpu = two.second.support_avx512bf16_for_cpu = True
    inputs = torch.randn(3, 128)
    assert input_gradient(two, inputs).any()
    evaluate(two, inputs)
    with pytest.raises((RuntimeError, AssertionError)):  # no graph at all: every layer was repacked
        assert input_gradient(two, inputs).any()
    with pytest.raises(AssertionError, match="repacked"):
        dequantized(two.first.weight)


def test_attention_is_eager_on_a_cpu_and_fused_elsewhere(tiny_model, tiny_batch):
    tiny_model.eval()
    assert choose_attention(tiny_model, "cuda") == "sdpa"
    fused = tiny_model(tiny_batch)
    attention = [module for module in tiny_model.modules() if hasattr(module, "fused_attn")]
    assert len(attention) == 3
    assert all(module.fused_attn for module in attention)

    assert choose_attention(tiny_model, torch.device("cpu")) == "eager"
    assert tiny_model.language_model.model.config._attn_implementation == "eager"
    assert not any(module.fused_attn for module in attention)
    torch.testing.assert_close(tiny_model(tiny_batch), fused)


def test_report_counts_parameters_and_bytes_of_each_tower(tiny_model):
    total = sum(parameter.numel() for parameter in tiny_model.parameters())
    quantize(tiny_model)
    towers = {tower.name: tower for tower in weight_report(tiny_model)}
    language = towers["language_model"]
    assert num_parameters(tiny_model) == total
    assert list(towers) == ["vision_backbone", "projector", "language_model", "proprio_projector"]
    assert towers["projector"].bytes_ == 4 * towers["projector"].parameters
    assert language.modules_4bit == 28
    assert language.formats == {"nf4": 4 * (4 * 192 * 192 + 3 * 192 * 512), "float32": 2 * 576 * 192 + 9 * 192}
    code_tables = 28 * (16 + 256 + 1) * 4
    expected = language.formats["nf4"] * BITS / 8 + language.formats["float32"] * 4 + code_tables
    assert language.bytes_ == pytest.approx(expected, rel=1e-3)
    text = report_text(tuple(towers.values()))
    assert "language_model: 1,992,384 parameters" in text
    assert "1,769,472 in nf4" in text
    assert f"total: {total:,} parameters" in text
