import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.models.nf4_blocks import Blocks, nf4_blocks


@pytest.fixture(autouse=True)
def one_thread():
    """The mean that bitsandbytes takes off depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_bytes(made: Blocks, weight: torch.Tensor) -> None:
    """bitsandbytes' own function is the reference."""
    codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(made.codes, codes)
    assert torch.equal(made.magnitudes, state.absmax)
    assert torch.equal(made.scales, state.state2.absmax)
    assert torch.equal(made.offset, state.offset)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(1, 700),
    scale=st.sampled_from([1e-38, 1e-30, 1e-3, 0.02, 1.0, 1e20, 1e37]),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_bytes_are_those_of_bitsandbytes(seed, blocks, scale, zeros):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(blocks, 64, generator=generator) * scale
    weight[torch.rand(blocks, generator=generator) < zeros] = 0.0
    weight = weight.bfloat16()
    assert_same_bytes(nf4_blocks(weight), weight)


def test_every_weight_under_every_fraction_of_the_largest():
    """All that the table can be asked: 128 fractions, and every bfloat16 that is not larger."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    rows = []
    for fraction in range(128):
        largest = 1 + fraction / 128
        weights = every[every.abs() <= largest]  # NaN is not
        weights = torch.nn.functional.pad(weights, (0, -len(weights) % 63)).reshape(-1, 63)
        rows.append(torch.cat([torch.full((len(weights), 1), largest, dtype=torch.bfloat16), weights], dim=1))
    weight = torch.cat(rows)
    assert_same_bytes(nf4_blocks(weight), weight)


def test_layers_larger_than_a_chunk_are_whole():
    weight = torch.randn(4096, 192, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert_same_bytes(nf4_blocks(weight), weight)


def test_a_view_that_is_not_contiguous_is_read_row_by_row():
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(0)).bfloat16().T
    assert_same_bytes(nf4_blocks(weight), weight.contiguous())


def test_state_turns_the_bytes_back_into_weights():
    weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    made = nf4_blocks(weight)
    assert torch.equal(dequantize_4bit(made.codes, made.state(weight.shape)), dequantize_4bit(codes, state))


@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_do_not_depend_on_the_number_of_threads(threads):
    weight = torch.randn(2048, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = nf4_blocks(weight)
    torch.set_num_threads(threads)
    made = nf4_blocks(weight)
    assert torch.equal(made.offset, expected.offset)
    assert torch.equal(made.magnitudes, expected.magnitudes)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(value):
    weight = torch.ones(4, 64, dtype=torch.bfloat16)
    weight[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity: download the checkpoint again"):
        nf4_blocks(weight)


def test_weights_that_fill_no_block_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 10\) does not fill blocks of 64: leave this layer out of nf4.targets"):
        nf4_blocks(torch.ones(3, 10, dtype=torch.bfloat16))
