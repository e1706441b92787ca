"""The sources' figures, from widths alone (their origin: the LoRA and QLoRA papers, and the shapes of Llama)."""

import pytest
import torch

from vla_tune.models.nf4 import NF4, quantize
from vla_tune.models.precision import weight_report
from vla_tune.plan.arithmetic import (
    FP32_ADAM,
    HALF_PRECISION,
    HALF_PRECISION_KAHAN,
    LlamaShape,
    four_bit_bytes,
    lora_parameters,
    nf4_bits,
)

LLAMA_2_7B = LlamaShape(width=4096, layers=32, hidden=11008, vocabulary=32000)
LLAMA_3_8B = LlamaShape(width=4096, layers=32, hidden=14336, vocabulary=128256, key_value_width=1024)
LLAMA_65B = LlamaShape(width=8192, layers=80, hidden=22016, vocabulary=32000)
TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("shape", "parameters"), [(LLAMA_2_7B, 6_738_415_616), (LLAMA_3_8B, 8_030_261_248), (LLAMA_65B, 65_285_660_672)]
)
def test_published_sizes(shape: LlamaShape, parameters: int):
    assert shape.parameters == parameters


def test_full_fine_tuning():
    assert 7e9 * FP32_ADAM.bytes_per_parameter == 112e9
    assert LLAMA_2_7B.parameters * HALF_PRECISION.bytes_per_parameter == pytest.approx(54e9, rel=0.01)
    assert LLAMA_3_8B.parameters * HALF_PRECISION_KAHAN.bytes_per_parameter == pytest.approx(80e9, rel=0.01)


def test_lora_and_qlora_on_a_bare_7b():
    adapter = LLAMA_2_7B.lora(TARGETS, rank=32)
    assert adapter == 63_176_704
    assert LLAMA_2_7B.lora_bytes(adapter) == pytest.approx(14.5e9, rel=0.01)
    assert LLAMA_2_7B.qlora_bytes(adapter) == pytest.approx(4.9e9, rel=0.01)
    assert LLAMA_2_7B.qlora_bytes(0) == pytest.approx(3.87e9, rel=0.005)  # of a file that was written


def test_qlora_of_65b_fits_48_gb():
    """QLoRA's abstract; its authors page the optimizer's states, so weights and gradients of the adapter are what counts."""
    adapter = LLAMA_65B.lora(LLAMA_65B.linears, rank=64)
    assert LLAMA_65B.qlora_bytes(0) == pytest.approx(34.5e9, rel=0.01)
    assert LLAMA_65B.qlora_bytes(0) + 8 * adapter < 48e9
    assert LLAMA_65B.qlora_bytes(LLAMA_65B.lora(LLAMA_65B.linears, rank=16)) < 48e9
    assert LLAMA_65B.lora_bytes(0) > 130e9


def test_lora_of_gpt_3():
    """Rank 4 on queries and values: 0.01 % of 175 billion (LoRA, arXiv 2106.09685, §1)."""
    adapter = lora_parameters([(12288, 12288)] * 2 * 96, rank=4)
    assert adapter == 18_874_368
    assert adapter / 175e9 == pytest.approx(1e-4, rel=0.1)


def test_lora_of_one_matrix():
    assert 100 * lora_parameters([(4096, 4096)], rank=8) / 4096**2 == 0.390625


def test_double_quantisation_saves_three_gigabytes_of_65b():
    saved = nf4_bits(double_quantized=False) - nf4_bits(double_quantized=True)
    assert nf4_bits(double_quantized=False) == 4.5
    assert saved == pytest.approx(0.3730, abs=5e-5)
    assert saved * 65e9 / 8 == pytest.approx(3.03e9, rel=0.001)


@pytest.mark.parametrize("shape", [(64, 64), (96, 72), (256, 1088)])
def test_four_bit_bytes_are_what_bitsandbytes_allocates(shape: tuple[int, int]):
    model = torch.nn.ModuleDict({"part": torch.nn.ModuleDict({"linear": torch.nn.Linear(*shape, bias=False)})})
    quantize(model, NF4(targets=["linear"]))
    (tower,) = weight_report(model)
    assert four_bit_bytes(shape[0] * shape[1], double=True) == tower.bytes_
