"""`conf/adapter` on the real shapes of OpenVLA-7B, without memory for a weight."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from vla_tune.adapters import AdapterReport, Lora
from vla_tune.models.openvla.load import empty_model, load_config

ROOT = Path(__file__).parents[2]
NO_ADAPTER = 7_541_237_184
"""Parameters of the original's model of that size on the meta device, which has 982 weights (openvla c8f03f4)."""
LANGUAGE_ONLY = {"vision_backbone": 0, "projector": 0, "language_model": 160}
ALL = {"vision_backbone": 211, "projector": 3, "language_model": 225}
PRESETS = {
    # name: rank, alpha, base, parameters, adapted modules
    "lora_r1": (1, 2, "bf16", 1_974_272, LANGUAGE_ONLY),
    "lora_r2": (2, 4, "bf16", 3_948_544, LANGUAGE_ONLY),
    "lora_r4": (4, 8, "bf16", 7_897_088, LANGUAGE_ONLY),
    "lora_r8": (8, 16, "bf16", 15_794_176, LANGUAGE_ONLY),
    "lora_r16": (16, 32, "bf16", 31_588_352, LANGUAGE_ONLY),
    "lora_r32": (32, 64, "bf16", 63_176_704, LANGUAGE_ONLY),
    "lora_r64": (64, 128, "bf16", 126_353_408, LANGUAGE_ONLY),
    "lora_r128": (128, 256, "bf16", 252_706_816, LANGUAGE_ONLY),
    "qlora_r16": (16, 32, "nf4", 31_588_352, LANGUAGE_ONLY),
    "qlora_r16_single": (16, 32, "nf4_single", 31_588_352, LANGUAGE_ONLY),
    "qlora_r16_fp4": (16, 32, "fp4", 31_588_352, LANGUAGE_ONLY),
    "qlora_r16_fp4_single": (16, 32, "fp4_single", 31_588_352, LANGUAGE_ONLY),
    "qlora_r32": (32, 64, "nf4", 63_176_704, LANGUAGE_ONLY),
    "qlora_r64": (64, 128, "nf4", 126_353_408, LANGUAGE_ONLY),
    "rslora_r64": (64, 16, "bf16", 126_353_408, LANGUAGE_ONLY),
    "openvla_all_linear_r32": (32, 16, "bf16", 110_828_288, ALL),  # what the original's script logs
}


def preset(name: str) -> Lora:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return instantiate(compose("train", overrides=[f"adapter={name}"]).adapter, _convert_="all")


@cache
def attached(rank: int, targets: tuple[str, ...], towers: tuple[str, ...]) -> tuple[AdapterReport, dict[str, tuple[int, ...]]]:
    """The report, and the shapes of what learns."""
    model = empty_model(load_config(ROOT / "vla_tune/assets/openvla_7b")).to(torch.bfloat16)
    with torch.device("meta"):
        report = Lora(rank=rank, alpha=rank, targets=targets, towers=towers).attach(model)
    return report, {name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad}


def counted(adapter: Lora) -> tuple[AdapterReport, dict[str, tuple[int, ...]]]:
    return attached(adapter.rank, tuple(adapter.targets), tuple(adapter.towers))


def test_the_shipped_configuration_is_that_of_the_7b():
    model = empty_model(load_config(ROOT / "vla_tune/assets/openvla_7b"))
    towers = {name: sum(weight.numel() for weight in child.parameters()) for name, child in model.named_children()}
    assert towers == {"vision_backbone": 730_911_680, "projector": 71_385_600, "language_model": 6_738_939_904}
    assert (sum(towers.values()), len(list(model.parameters()))) == (NO_ADAPTER, 982)
    assert model.config.vocabulary_size == 32_000
    assert model.config.text_config.rms_norm_eps == 1e-6
    assert len(model.get_submodule("vision_backbone.fused_featurizer.blocks")) == 27


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_learns_as_many_parameters_as_it_should(name: str):
    rank, alpha, base, parameters, modules = PRESETS[name]
    adapter = preset(name)
    assert (adapter.rank, adapter.alpha, adapter.base, adapter.dropout) == (rank, alpha, base, 0.0)
    report, _ = counted(adapter)
    assert (report.trainable, report.total, dict(report.modules)) == (parameters, NO_ADAPTER + parameters, modules)


HEAD, BLOCK = 32_064 * 4096, 202_383_360
"""Parameters of `lm_head`, as many as of the embeddings, and of one block of the language model."""


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("full", NO_ADAPTER),
        ("full_frozen_vision", NO_ADAPTER - 730_911_680),
        ("full_last_layer", 2 * HEAD + BLOCK),
        ("full_sandwich", 730_911_680 + 71_385_600 + 2 * HEAD + BLOCK),
    ],
)
def test_parts_of_the_model_learn_in_full(name: str, parameters: int):
    model = empty_model(load_config(ROOT / "vla_tune/assets/openvla_7b")).float()
    assert preset(name).attach(model).trainable == parameters
    last = model.get_parameter("language_model.model.layers.31.mlp.up_proj.weight")
    first = model.get_parameter("language_model.model.layers.0.mlp.up_proj.weight")
    assert last.requires_grad
    assert first.requires_grad == (name in ("full", "full_frozen_vision"))


def test_every_preset_of_lora_is_counted():
    lora = {path.stem for path in (ROOT / "conf/adapter").glob("*.yaml") if "lora" in path.stem or "linear" in path.stem}
    assert lora == PRESETS.keys()


def test_the_original_preset_adapts_what_the_original_did():
    adapter = preset("openvla_all_linear_r32")
    assert adapter.initialisation == "gaussian"
    _, shapes = counted(adapter)
    for tower, width, last in (("featurizer", 1024, 23), ("fused_featurizer", 1152, 26)):
        assert shapes[f"vision_backbone.{tower}.patch_embed.proj.lora_A.default.weight"] == (32, 3, 14, 14)
        assert shapes[f"vision_backbone.{tower}.patch_embed.proj.lora_B.default.weight"] == (width, 32, 1, 1)
        assert f"vision_backbone.{tower}.blocks.{last}.attn.qkv.lora_A.default.weight" in shapes, "whose output nobody reads"
    assert shapes["language_model.lm_head.lora_B.default.weight"] == (32_064, 32)
    assert "vision_backbone.fused_featurizer.attn_pool.kv.lora_A.default.weight" in shapes


def test_everything_is_what_the_original_lists():
    everything = replace(preset("openvla_all_linear_r32"), targets=["*"])
    assert counted(everything)[1] == counted(preset("openvla_all_linear_r32"))[1]
