"""OpenVLA checkpoints are written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vla_tune.models.files import WEIGHTS_FILE, new_folder
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.load import check_weights, empty_model
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.precision import plain_weights
from vla_tune.schema import Contract


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
) -> None:
    """Write weights under their published names, configuration, tokenizer and contract into an existing folder.

    Raises:
        ValueError: the names are not exactly those of the architecture, or a weight is no float.
    """
    written = OpenVLAConfig.from_dict(config.to_dict())
    check_weights(tensors, empty_model(written), folder)
    integers = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if integers:
        raise ValueError(f"{integers[:3]} are no floating-point weights: a checkpoint is written dequantised, never in 4 bits.")
    written.dtype = next(iter(tensors.values())).dtype
    written.architectures = ["OpenVLAForActionPrediction"]
    written.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    contract.save(folder)
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(ready, folder / WEIGHTS_FILE, metadata={"format": "pt"})
