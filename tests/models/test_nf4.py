import bitsandbytes.nn.modules
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn.modules import Linear4bit
from torch import nn

from vla_tune.models import four_bits
from vla_tune.models.nf4 import NF4, dequantized, num_quantized, plain_weights, quantize
from vla_tune.models.openvla.load import OPENVLA_NF4


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


def test_only_the_blocks_of_the_language_model_are_4_bit(tiny_model):
    assert quantize(tiny_model, OPENVLA_NF4) == 28  # seven in each of four blocks
    quantized = [name for name, module in tiny_model.named_modules() if isinstance(module, Linear4bit)]
    assert len(quantized) == num_quantized(tiny_model) == 28
    assert all(name.startswith("language_model.model.layers.") for name in quantized)
    assert {dict(tiny_model.named_parameters())[f"{name}.weight"].dtype for name in quantized} == {torch.uint8}


def test_targets_are_the_whole_list_and_must_match(two, tiny_model):
    assert quantize(two, NF4(targets=["second"])) == 1
    assert not isinstance(two.first, Linear4bit)
    for targets in (["self_attn"], ["projector.fc9"], []):
        with pytest.raises(ValueError, match="no"):
            quantize(tiny_model, NF4(targets=targets))
    assert num_quantized(tiny_model) == 0


def test_dequantised_weights_are_those_that_the_layer_multiplies_with(two):
    original = two.first.weight.detach().clone()
    quantize(two, NF4(targets=["first"]))
    weights = dequantized(two.first.weight)
    assert weights.dtype == torch.bfloat16
    identity = torch.eye(128, dtype=torch.bfloat16)
    assert torch.equal(two.first(identity).T, weights)
    error = (weights.float() - original).norm() / original.norm()
    assert 0.05 < error < 0.15  # NF4 of a bell curve: 0.09


def test_quantising_float32_and_its_bfloat16_rounding_gives_the_same_bits(two, make_two):
    other = make_two()
    other.load_state_dict({name: weight.bfloat16().float() for name, weight in two.state_dict().items()})
    for model in (two, other):
        quantize(model, NF4(targets=["*"]))
    own, others = two.state_dict(), other.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)


@pytest.mark.parametrize("cpu_has_avx512_bf16", [False, True])
def test_no_evaluation_pass_ever_repacks_the_weights(two, monkeypatch, cpu_has_avx512_bf16):
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: cpu_has_avx512_bf16)
    quantize(two, NF4(targets=["*"]))
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
    quantize(two, NF4(targets=["*"]))
    two.first.support_avx512bf16_for_cpu = two.second.support_avx512bf16_for_cpu = True
    inputs = torch.randn(3, 128)
    assert input_gradient(two, inputs).any()
    evaluate(two, inputs)
    with pytest.raises((RuntimeError, AssertionError)):  # no graph at all: every layer was repacked
        assert input_gradient(two, inputs).any()
    with pytest.raises(AssertionError, match="repacked"):
        dequantized(two.first.weight)


@pytest.mark.parametrize("storage", ["uint8", "bf16", "fp32"])
def test_storage_changes_the_name_of_the_bytes_and_nothing_else(two, make_two, storage):
    other = make_two()
    other.load_state_dict(two.state_dict())
    quantize(two, NF4(targets=["*"]))
    quantize(other, NF4(targets=["*"], storage=storage))
    inputs = torch.randn(3, 128)
    assert torch.equal(two(inputs), other(inputs))
    assert torch.equal(input_gradient(two, inputs), input_gradient(other, inputs))
    assert other.first.weight.data.reshape(-1).view(torch.uint8).equal(two.first.weight.data.reshape(-1))
    assert dict(plain_weights(other))["first.weight"].equal(dict(plain_weights(two))["first.weight"])


def test_an_unknown_storage_is_refused():
    with pytest.raises(ValueError, match=r"nf4.storage='int8': choose one of uint8, bf16, fp32"):
        NF4(targets=["*"], storage="int8")


def test_weights_that_are_no_numbers_are_named(two):
    two.second.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="second: weights hold NaN"):
        quantize(two, NF4(targets=["*"]))


def test_a_copy_is_written_once_and_gives_the_same_layers(two, make_two, tmp_path, monkeypatch):
    again, plain = make_two(), make_two()
    for other in (again, plain):
        other.load_state_dict(two.state_dict())
    copy = tmp_path / "cache" / "copy.safetensors"
    assert quantize(two, NF4(targets=["*"]), copy=copy) == 2
    monkeypatch.setattr(four_bits, "nf4_blocks", None)  # nothing is quantised any more
    quantize(again, NF4(targets=["*"]), copy=copy)
    monkeypatch.undo()
    quantize(plain, NF4(targets=["*"]))
    expected = plain.state_dict()
    for model in (two, again):
        assert model.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert {path.name for path in copy.parent.iterdir()} == {"copy.safetensors", "copy.json"}


def test_an_interrupted_copy_leaves_nothing(two, tmp_path):
    two.second.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="second"):
        quantize(two, NF4(targets=["*"]), copy=tmp_path / "copy.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_refused_with_the_remedy(two, make_two, tmp_path):
    copy = tmp_path / "copy.safetensors"
    quantize(two, NF4(targets=["*"]), copy=copy)
    data = copy.read_bytes()
    copy.unlink()  # it is mapped
    copy.write_bytes(data[:-7])
    with pytest.raises(ValueError, match=r"damaged.*remove .*copy.safetensors: it will be made again"):
        quantize(make_two(), NF4(targets=["*"]), copy=copy)


def test_a_copy_that_rots_is_refused(two, make_two, tmp_path):
    copy = tmp_path / "copy.safetensors"
    quantize(two, NF4(targets=["*"]), copy=copy)
    data = bytearray(copy.read_bytes())
    data[-40] ^= 1
    copy.unlink()  # it is mapped
    copy.write_bytes(data)
    with pytest.raises(ValueError, match=r"copy.safetensors is not as it was written.*it will be made again"):
        quantize(make_two(), NF4(targets=["*"]), copy=copy)


@pytest.mark.parametrize("note", [None, "", "{}", "[1]", "garbage", "[" * 100_000])
def test_a_copy_without_its_hash_is_made_again(two, make_two, tmp_path, note):
    copy = tmp_path / "copy.safetensors"
    again = make_two()
    again.load_state_dict(two.state_dict())
    quantize(two, NF4(targets=["*"]), copy=copy)
    copy.unlink()
    copy.write_bytes(b"anything")
    (tmp_path / "copy.json").unlink() if note is None else (tmp_path / "copy.json").write_text(note)
    quantize(again, NF4(targets=["*"]), copy=copy)
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_a_copy_of_other_layers_is_refused(two, make_two, tmp_path):
    copy = tmp_path / "copy.safetensors"
    quantize(two, NF4(targets=["first"]), copy=copy)
    with pytest.raises(ValueError, match=r"other layers than the model has.*it will be made again"):
        quantize(make_two(), NF4(targets=["*"]), copy=copy)
