import pytest
import torch

from vla_tune.models.nf4 import NF4, quantize
from vla_tune.models.openvla.load import OPENVLA_NF4
from vla_tune.models.precision import (
    cast,
    check_format,
    choose_attention,
    num_parameters,
    report_text,
    weight_dtype,
    weight_format,
    weight_report,
)

BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Of an NF4 parameter with double quantisation (QLoRA, arXiv 2305.14314, §3)."""


def test_a_format_that_the_device_cannot_compute_in_is_refused_with_the_alternative():
    with pytest.raises(ValueError, match=r"fp16 is refused on a CPU.* use bf16 or fp32"):
        check_format("fp16", "cpu")
    check_format("fp16", "cuda")
    with pytest.raises(ValueError, match="choose one of fp32, bf16, fp16, nf4"):
        weight_dtype("int8")


def test_every_weight_takes_the_format_and_every_buffer_keeps_its_own(two):
    two.register_buffer("table", torch.zeros(2))
    cast(two, "fp16", "cpu")
    assert weight_format(two) == "fp16"
    assert two.get_buffer("table").dtype == torch.float32


def test_format_is_read_off_the_weights(two):
    assert weight_format(two) == "fp32"
    two.first.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*torch\.float32"):
        weight_format(two)
    assert weight_format(two.to(torch.bfloat16)) == "bf16"
    quantize(two, NF4(targets=["first"]))
    assert weight_format(two) == "nf4"


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


def test_attention_is_what_is_asked_for_or_refused(tiny_model):
    assert choose_attention(tiny_model, "cpu", "sdpa") == "sdpa"
    assert tiny_model.language_model.model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=r"attention='flash': choose one of auto, sdpa, eager, flash_attention_2"):
        choose_attention(tiny_model, "cpu", "flash")
    with pytest.raises(ValueError, match=r"needs a GPU and the package flash-attn"):
        choose_attention(tiny_model, "cpu", "flash_attention_2")


def test_report_counts_parameters_and_bytes_of_each_tower(tiny_model):
    total = sum(parameter.numel() for parameter in tiny_model.parameters())
    quantize(tiny_model, OPENVLA_NF4)
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
    assert "language_model: 39 modules (28 in 4 bits), 1,992,384 parameters" in text
    assert "1,769,472 in nf4" in text
    assert f"total: {total:,} parameters" in text
