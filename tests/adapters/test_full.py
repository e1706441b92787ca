import pytest
import torch

from vla_tune.adapters import Adapter, Full
from vla_tune.models.precision import num_parameters


def test_everything_learns_in_float32_and_nothing_else_changes(load_base, tiny_batch):
    model = load_base("fp32")
    with torch.no_grad():
        before = model(tiny_batch)
        report = Full().attach(model)
        assert torch.equal(model(tiny_batch), before)
    assert isinstance(Full(), Adapter)
    assert report.trainable == report.total == num_parameters(model)
    assert report.percent == 100
    assert all(count > 0 for count in report.modules.values())


def test_a_pattern_chooses_what_learns(load_base):
    model = load_base("fp32")
    report = Full(targets=["projector.*", "layers.3.mlp.*"]).attach(model)
    assert dict(report.modules) == {"vision_backbone": 0, "projector": 2, "language_model": 3, "proprio_projector": 0}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {
        *(f"projector.fc{index}.{part}" for index in (1, 2) for part in ("weight", "bias")),
        *(f"language_model.model.layers.3.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }


def test_a_pattern_that_matches_nothing_is_refused(load_base):
    with pytest.raises(ValueError, match=r"'projektor\.\*' matches nothing"):
        Full(targets=["projektor.*"]).attach(load_base("fp32"))


@pytest.mark.parametrize("base", ["bf16", "nf4"])
def test_weights_that_learn_are_float32(load_base, base):
    with pytest.raises(ValueError, match="kept in fp32"):
        Full(base=base)
    with pytest.raises(ValueError, match=f"the model has {base} weights"):
        Full().attach(load_base(base))


def test_merging_is_one_rounding(load_base, merge_in_memory):
    model = load_base("fp32")
    Full().attach(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for dtype in (torch.float32, torch.bfloat16):
        merged = merge_in_memory(Full(), model, dtype=dtype)
        assert all(torch.equal(merged[name], tensor.to(dtype)) for name, tensor in model.state_dict().items())


def test_the_vision_tower_can_stay_as_it_is(tiny_model):
    report = Full(targets=["language_model.*", "projector.*"]).attach(tiny_model)
    assert report.modules["vision_backbone"] == 0
    assert min(report.modules["language_model"], report.modules["projector"]) > 0
    assert not any(p.requires_grad for name, p in tiny_model.named_parameters() if name.startswith("vision_backbone."))
