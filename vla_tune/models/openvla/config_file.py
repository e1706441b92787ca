"""`config.json` as the original code reads it (transformers 4.40)."""

from typing import Any

import torch
from transformers import PretrainedConfig

from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.record import record_of
from vla_tune.models.openvla.statistics_file import statistics_record
from vla_tune.schema import Contract

_RENAMED = ("dtype", "rope_parameters", "transformers_version", "_name_or_path")
"""Fields of today's transformers that have other names in 4.40, or say where a file came from."""


def config_record(config: OpenVLAConfig, contract: Contract, dtype: torch.dtype) -> dict[str, Any]:
    """The published fields, those of the source checkpoint that we do not know among them.

    `norm_stats` holds the contract's statistics alone: those of other datasets describe actions that the weights no longer give.
    `auto_map` is left out where it names Python files, which a folder of ours does not hold.
    """
    towers = len(config.timm_model_ids)
    given = _own_fields(config)
    if any("--" not in target for target in given.get("auto_map", {}).values()):
        del given["auto_map"]
    if not any(config.timm_kwargs):
        del given["timm_kwargs"]
    for addition in ("proprio_dimension", "action_head_dimension", "film_dimension"):
        if not given[addition]:
            del given[addition]
    if config.prompt_attention == "causal":
        del given["prompt_attention"]
    return {
        "llm_max_length": 2048,
        "output_projector_states": False,
        **given,
        "architectures": ["OpenVLAForActionPrediction"],
        "image_resize_strategy": record_of(contract).image.resize,
        "model_type": "openvla",
        "norm_stats": statistics_record(contract.statistics),
        "pad_token_id": config.vocabulary_size,
        "text_config": _text_record(config.text_config, dtype),
        "torch_dtype": _name(dtype),
        "use_fused_vision_backbone": towers == 2,
    }


def generation_record(config: OpenVLAConfig) -> dict[str, Any]:
    """`generation_config.json`: where a sequence begins and ends."""
    text = config.text_config
    return {
        "_from_model_config": True,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": config.vocabulary_size,
    }


def _own_fields(config: PretrainedConfig) -> dict[str, Any]:
    """What is not every model's default."""
    every = PretrainedConfig().to_dict()
    fields = config.to_dict()
    return {key: value for key, value in fields.items() if key not in _RENAMED and (key not in every or value != every[key])}


def _text_record(text: PretrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The language model's part; rotary embeddings under their old names."""
    rope = dict(text.rope_parameters)  # pyright: ignore[reportAttributeAccessIssue]
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    scaling = None if kind == "default" else rope | {"type": kind}
    return _own_fields(text) | {"rope_theta": theta, "rope_scaling": scaling, "torch_dtype": _name(dtype)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
