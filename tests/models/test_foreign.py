"""A checkpoint's text files are a stranger's: what they may ask for is bounded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm

from vla_tune.models.foreign import check_tokenizer, plain_config
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.tiny import tiny_config
from vla_tune.run.folder import asset


def written(folder: Path, **fields: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "openvla"} | fields))
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        {"attn_implementation": "someone/kernel"},
        {"text_config": {"_attn_implementation": "kernels-community/flash-attn"}},
        {"vision_config": {"experts_implementation": "x"}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"text_config": {"quantization_config": {"quant_method": "x"}}},
        {"transformers_weights": "../other/model.safetensors"},
        {"backbone_config": {"use_pretrained_backbone": True}},
        {"use_kernels": True},
        {"text_config": {"num_hidden_layers": 10**6}},
        {"vision_config": {"depths": [2, 10**6]}},
        {"timm_kwargs": [{"depth": 10**6}]},
        {"text_config": {"head_dim": 10**9}},
        {"image_sizes": [10**8]},
        {"text_config": {"max_position_embeddings": 10**12}},
        {"text_config": {"vocab_size": 10**10}},
        {"text_config": {"hidden_size": -(10**9)}},
    ],
    ids=str,
)
def test_a_configuration_asks_for_no_code_and_no_more_than_a_model_has(tmp_path: Path, fields: dict[str, Any]):
    with pytest.raises(ValueError, match=r"config\.json has ") as caught:
        plain_config(written(tmp_path, **fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {
            "text_config": {
                "_attn_implementation": "sdpa",
                "vocab_size": 262_144,
                "max_position_embeddings": 10**7,
                "rope_theta": 5e7,
            }
        },
        {"quantization_config": None, "norm_stats": {"bridge": {"num_transitions": 4_000_000, "action": {"max": [1.0]}}}},
        {"auto_map": {"AutoConfig": "modeling.Evil"}},  # never asked for
        {"vocab_size_per_layer_input": 262_144, "layer_norm_eps": 1e-6, "num_hidden_layers": 126, "intermediate_size": 53_248},
    ],
)
def test_published_configurations_pass(tmp_path: Path, fields: dict[str, Any]):
    assert plain_config(written(tmp_path, **fields)).items() >= fields.items()


def test_a_base_beside_an_adapter_is_refused(tmp_path: Path):
    (written(tmp_path) / "adapter_config.json").write_text('{"base_model_name_or_path": "../other"}')
    with pytest.raises(ValueError, match="an adapter beside a base"):
        plain_config(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"a": 1'])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        plain_config(tmp_path)


LONGER = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
BOMBS: Mapping[str, dict[str, Any]] = {
    "a chain": {"normalizer": {"type": "Sequence", "normalizers": [LONGER] * 10}},
    "one step": {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "x" * 1000}},
    "between letters": {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000}},
    "in front": {"normalizer": {"type": "Prepend", "prepend": "x" * 10_000_000}},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 20}},
    "both": {
        "normalizer": {"type": "Sequence", "normalizers": [LONGER]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 3},
    },
    "padding": {"padding": {"strategy": {"Fixed": 10**9}}},
    "multiples": {"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**9}},
    "special tokens": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "s", "type_id": 0}}] * 100,
            "special_tokens": {"s": {"id": "s", "ids": [1] * 100}},
        }
    },
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_tokenizer_makes_no_long_text_of_a_short_one(tmp_path: Path, name: str):
    (tmp_path / "tokenizer.json").write_text(json.dumps(BOMBS[name]))
    with pytest.raises(ValueError, match=r"tokenizer\.json makes a text of any length"):
        check_tokenizer(tmp_path)


def test_ordinary_tokenizers_pass(tmp_path: Path):
    check_tokenizer(Path(asset("tiny")))
    check_tokenizer(tmp_path)  # of another kind
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    llama = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    split = {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": llama, "pre_tokenizer": split, "padding": None}))
    check_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"timm_model_ids": ["hf-hub:someone/model"]},
        {"timm_model_ids": ["local-dir:/tmp/x"]},
        {"timm_model_ids": [3]},
        {"timm_kwargs": [{"checkpoint_path": "/tmp/evil.pt"}]},
        {"timm_kwargs": [{"pretrained_cfg": {"url": "https://example.org"}}]},
        {"timm_kwargs": [{"depth": 2, "block_fn": ["x"]}]},
        {"timm_kwargs": ["x"]},
    ],
    ids=str,
)
def test_a_vision_tower_is_fetched_from_nowhere(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    config = tiny_config()
    for key, value in changes.items():
        setattr(config, key, value)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it was made"))
    with pytest.raises(ValueError, match="vision tower"):
        OpenVLA(config)


def test_the_checkpoint_that_ships_passes():
    assert OpenVLACheckpoint(asset("tiny")).processor is not None
