"""OpenVLA checkpoints are written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vla_tune.models.files import CONFIG_FILE, new_folder
from vla_tune.models.nf4 import plain_weights
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.config_file import config_record, generation_record
from vla_tune.models.openvla.load import check_names, empty_model
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.openvla.processor_file import PROCESSOR_FILE, processor_record
from vla_tune.models.openvla.record import record_of
from vla_tune.models.openvla.statistics_file import STATISTICS_FILE, statistics_record
from vla_tune.models.openvla.tokenizer_file import save_tokenizer
from vla_tune.models.sealed import seal
from vla_tune.models.weight_files import SHARD_BYTES, write_weights
from vla_tune.schema import Contract

GENERATION_FILE = "generation_config.json"


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
        seal(temporary)


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
    model = empty_model(written)
    check_names(tensors, model, folder)
    name, first = next(iter(tensors.items()))
    if not first.is_floating_point():
        raise ValueError(f"{name} holds {first.dtype}, no floating-point weights: a checkpoint is written dequantised.")
    records = {
        CONFIG_FILE: config_record(written, contract, first.dtype),
        GENERATION_FILE: generation_record(written),
        PROCESSOR_FILE: processor_record(record_of(contract).image),
        STATISTICS_FILE: statistics_record(contract.statistics),
    }
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    save_tokenizer(tokenizer, folder)
    contract.save(folder)
    shapes = {name: weight.to(first.dtype) for name, weight in model.state_dict().items()}
    write_weights(folder, shapes, tensors, shard_bytes=shard_bytes)
