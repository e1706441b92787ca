"""What is no number does not enter."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vla_tune.adapters import Lora
from vla_tune.models.finite import check_finite
from vla_tune.models.openvla.load import load
from vla_tune.models.openvla.save import save_checkpoint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_is_found(dtype: torch.dtype, value: float):
    weight = torch.full((40, 70), torch.finfo(dtype).max, dtype=dtype)  # whose sum is no finite number
    check_finite([("weight", weight)], "here")
    weight[37, 5] = value
    with pytest.raises(ValueError, match="here: weight holds NaN or infinite values"):
        check_finite([("fine", torch.ones(2)), ("weight", weight)], "here")


def test_what_has_no_such_values_passes():
    check_finite([("a", torch.ones(3, dtype=torch.uint8)), ("b", torch.empty(3, device="meta")), ("c", torch.empty(0, 4))], "here")


@pytest.mark.parametrize("base", ["bf16", "fp32", "nf4"])
def test_a_checkpoint_is_refused(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract, base: str):
    with torch.no_grad():
        tiny_model.language_model.lm_head.weight[5, 5] = float("nan")
    save_checkpoint(tmp_path / "saved", tiny_model, tiny_tokenizer, tiny_contract)
    with pytest.raises(ValueError, match=r"lm_head\.weight holds NaN"):
        load(tmp_path / "saved", base=base)


def test_an_adapter_is_refused(tmp_path: Path, tiny_model):
    adapter = Lora(rank=2, alpha=4, targets=["q_proj"], towers=["language_model"], base="fp32")
    adapter.attach(tiny_model)
    adapter.save(tmp_path, tiny_model, base_hash="0" * 64)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name][0, 0] = float("inf")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    path.unlink()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=f"{name} holds NaN or infinite"):
        adapter.load(tmp_path, tiny_model, base_hash="0" * 64)
    with pytest.raises(ValueError, match=f"{name} holds NaN or infinite"):
        adapter.changes(tmp_path, base_hash="0" * 64)
