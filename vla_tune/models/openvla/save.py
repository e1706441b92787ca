"""OpenVLA checkpoints are written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vla_tune.models.files import CONFIG_FILE, INDEX_FILE, new_folder
from vla_tune.models.nf4 import plain_weights
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.config_file import config_record, generation_record
from vla_tune.models.openvla.load import check_weights, empty_model
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.openvla.processor_file import PROCESSOR_FILE, processor_record
from vla_tune.models.openvla.statistics_file import STATISTICS_FILE, statistics_record
from vla_tune.models.openvla.tokenizer_file import save_tokenizer
from vla_tune.schema import Contract, ImageRule

GENERATION_FILE = "generation_config.json"
SHARD_BYTES = 7_000_000_000
"""The published 7B checkpoints have three shards of at most this size."""


def save_checkpoint(
    folder: Path,
    model: OpenVLA,
    tokenizer: PreTrainedTokenizerBase,
    contract: Contract,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write `model` as a new checkpoint folder: all of it, or nothing if anything fails.

    Raises:
        ValueError: the folder exists, or the model carries an adapter.
    """
    tensors = {name: weight.to(dtype) for name, weight in plain_weights(model)}
    with new_folder(folder) as temporary:
        write_checkpoint(temporary, tensors, config=model.config, tokenizer=tokenizer, contract=contract)


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    contract: Contract,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights under their published names, configuration, tokenizer and contract into an existing folder.

    Everything that the original code reads is there (openvla-spec, "Normalisation" to "Architecture and checkpoint keys"), so it
    runs the folder, as far as it knows how: it decodes one action with uniform bins and reads neither state nor contract.

    Raises:
        ValueError: the names are not exactly those of the architecture, or a weight is no float.
    """
    written = OpenVLAConfig.from_dict(config.to_dict())
    check_weights(tensors, empty_model(written), folder)
    integers = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if integers:
        raise ValueError(f"{integers[:3]} are no floating-point weights: a checkpoint is written dequantised, never in 4 bits.")
    assert isinstance(contract.image, ImageRule), "OpenVLA has OpenVLA's image rule"
    records = {
        CONFIG_FILE: config_record(written, contract, next(iter(tensors.values())).dtype),
        GENERATION_FILE: generation_record(written),
        PROCESSOR_FILE: processor_record(contract.image),
        STATISTICS_FILE: statistics_record(contract.statistics),
    }
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    save_tokenizer(tokenizer, folder)
    contract.save(folder)
    write_weights(folder, tensors, shard_bytes=shard_bytes)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], *, shard_bytes: int) -> None:
    """One file, or as many as are needed to keep each below `shard_bytes` (unless a single tensor is larger), and their index."""
    parts = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=shard_bytes)
    for file, names in parts.filename_to_tensors.items():
        ready = {name: tensors[name].detach().cpu().contiguous() for name in names}
        save_file(ready, folder / file, metadata={"format": "pt"})
    if parts.is_sharded:
        index = {"metadata": parts.metadata, "weight_map": parts.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
