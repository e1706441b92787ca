"""OpenVLA checkpoints: published names in safetensors, read strictly and written whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.precision import choose_attention, plain_weights, quantize, weight_dtype
from vla_tune.schema import Contract

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"


def load(folder: str | Path, *, base: str = "bf16", device: torch.device | str = "cpu") -> OpenVLA:
    """The model in `folder`, its weights in the format `base` (fp32, bf16 or nf4), in evaluation mode.

    Weights on a CPU stay mapped to the file where their format is that of the file.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: the format is unknown, or the weights do not fit the configuration exactly.
    """
    folder, dtype = Path(folder), weight_dtype(base)
    model = empty_model(load_config(folder))
    tensors = dict(_tensors(folder))
    _check_weights(tensors, model, folder)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    if base == "nf4":
        quantize(model, device=device)
    choose_attention(model, device)
    nn.Module.to(model, device)
    return model.eval()


def load_config(folder: Path) -> OpenVLAConfig:
    """The configuration in `folder`."""
    record = json.loads(_existing(folder / CONFIG_FILE).read_text())
    if record.get("model_type") != OpenVLAConfig.model_type:
        raise ValueError(f"{folder / CONFIG_FILE} has model_type={record.get('model_type')!r}; this loader reads 'openvla'.")
    return OpenVLAConfig.from_dict(record)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The text tokenizer in `folder`."""
    _existing(folder / "tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def empty_model(config: OpenVLAConfig) -> OpenVLA:
    """The architecture without memory for its weights; buffers, which no checkpoint holds, are real."""
    with init_empty_weights():
        return OpenVLA(config)


def content_hash(folder: Path) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of the weights in `folder`, however they are split into files."""
    digest = hashlib.sha256()
    for name, tensor in _tensors(folder):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
    _check_weights(tensors, empty_model(written), folder)
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


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder` when the block ends well, and vanishes when it does not.

    Raises:
        ValueError: `folder` exists already.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists and nothing is overwritten: remove it or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names in alphabetical order, tensors mapped to their files."""
    places = _places(folder)
    for name in sorted(places):
        yield name, places[name].get_tensor(name)


def _places(folder: Path) -> dict[str, safe_open]:
    """The open file of each tensor."""
    index = folder / INDEX_FILE
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {WEIGHTS_FILE}
    places: dict[str, safe_open] = {}
    for name in sorted(names):
        handle = _opened(_existing(folder / name))
        places |= dict.fromkeys(handle.keys(), handle)
    return places


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged or cut short ({error}): copy or download it again."
        ) from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        held = ", ".join(sorted(child.name for child in path.parent.iterdir())) if path.parent.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{path} is missing ({held}): a checkpoint folder holds {CONFIG_FILE}, {WEIGHTS_FILE} and a tokenizer."
        )
    return path


def _check_weights(tensors: Mapping[str, Tensor], model: OpenVLA, folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            f"{folder}: the weights do not fit the configuration; {len(missing)} missing (first {missing[:3]}), {len(unexpected)} "
            f"unexpected (first {unexpected[:3]}). Take weights and {CONFIG_FILE} from the same checkpoint, without an adapter."
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{folder}: {name} has shape {tuple(tensors[name].shape)}, the configuration says {shape}.")
