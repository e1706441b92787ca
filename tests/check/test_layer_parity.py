"""Layers of a merged model against base and adapter, on what reaches them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vla_tune.adapters import Lora
from vla_tune.check.layer_parity import LayerReport, layer_parity
from vla_tune.data import build_pipeline
from vla_tune.models.nf4 import plain_weights
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Observation


@pytest.fixture
def compare(tmp_path: Path, tiny_model, tiny_head, tiny_tokenizer, tiny_contract) -> Callable[..., LayerReport]:
    """Compares a model whose weights `spoil` made of the right merge."""
    adapter = Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"], base="fp32")
    weights = {name: weight.clone() for name, weight in plain_weights(tiny_model)}
    adapter.attach(tiny_model)
    with torch.no_grad():
        for parameter in adapter.stored(tiny_model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    adapter.save(tmp_path, tiny_model, base_hash="0")
    changes = adapter.changes(tmp_path, base_hash="0")
    right = {name: changes[name](weight) if name in changes else weight for name, weight in weights.items()}

    def run(spoil: Callable[[dict], dict] = lambda tensors: tensors, *, count: int = 4) -> LayerReport:
        merged = type(tiny_model)(tiny_model.config)
        merged.load_state_dict(spoil(dict(right)))
        policy = LocalPolicy(
            tiny_head.over(merged),
            build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)),
            tiny_contract,
            pad_id=512,
        )
        reached.clear()
        for name, module in merged.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *_, name=name: reached.append(name))
        return layer_parity(policy, changes, weights, observations(), count=count)

    reached: list[str] = []
    run.reached = reached  # pyright: ignore
    run.base = weights  # pyright: ignore
    return run


def observations() -> list[Observation]:
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    return [Observation({"front": image}, noise.uniform(0, 0.1, 4).astype(np.float32), "lift the red block") for image in images]


def test_a_right_merge_has_no_error(compare):
    report = compare()
    assert report.passed
    assert max(report.errors) < 1e-5
    assert len(report.layers) == 4


def test_rounding_to_bfloat16_is_allowed(compare):
    report = compare(lambda tensors: {name: weight.bfloat16().float() for name, weight in tensors.items()})
    assert report.passed, str(report)
    assert 1e-4 < max(report.errors) < 0.005


def test_the_base_in_the_place_of_the_merge_fails(compare):
    report = compare(lambda tensors: compare.base)
    assert not report.passed
    assert report.share == pytest.approx(1.0)
    assert "merged layers are NOT what was trained" in str(report)


def test_a_change_that_was_not_divided_by_the_rank_fails(compare):
    """W + 4 times what it should be."""
    assert not compare(lambda tensors: {name: 4 * weight - 3 * compare.base[name] for name, weight in tensors.items()}).passed


def test_the_forward_pass_ends_behind_the_layers(compare):
    compare(count=2)
    reached = [name for name in compare.reached if ".layers." in name]
    assert reached[-1].startswith("language_model.model.layers.0")


def test_it_needs_frames(compare, monkeypatch):
    monkeypatch.setitem(compare.__globals__, "observations", list)
    with pytest.raises(ValueError, match="record at least one"):
        compare()
