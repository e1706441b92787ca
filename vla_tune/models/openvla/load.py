"""OpenVLA checkpoints are read strictly: published names, exactly those of the configuration."""

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from vla_tune.models.files import CONFIG_FILE, existing, places, read_tensors
from vla_tune.models.finite import check_finite
from vla_tune.models.foreign import TOKENIZER_FILE, check_tokenizer, plain_config
from vla_tune.models.four_bits import FOUR_BITS, TABULATED
from vla_tune.models.hashes import quantized_copy
from vla_tune.models.nf4 import NF4, quantizable, quantize, rounded
from vla_tune.models.nf4_file import is_written, map_blocks
from vla_tune.models.openvla.additions import Addition, extended, initial_weights, made_anew, module_patterns
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.openvla.oft_files import add_dimensions, oft_tensors
from vla_tune.models.patterns import matching_names
from vla_tune.models.precision import cast, check_format, choose_attention, weight_dtype
from vla_tune.models.tensor_reader import check_tensor_names
from vla_tune.models.weights import Weights

OPENVLA_NF4 = NF4(targets=("language_model.model.layers.*",))
"""The linear layers of the language model's blocks. Vision towers, projectors, embeddings and `lm_head` stay as they are: they are
a seventh of the model's weights, and SigLIP's widths are no multiples of 64, which the kernels need."""


def load(
    folder: str | Path,
    *,
    base: str = "bf16",
    nf4: NF4 = OPENVLA_NF4,
    cache: Path | None = None,
    attention: str = "auto",
    device: torch.device | str = "cpu",
    additions: Sequence[Addition] = (),
) -> OpenVLA:
    """The model in `folder`, its weights in the format `base`, in evaluation mode.

    Weights are mapped to the files and brought into their final form one after the other; on a CPU those stay mapped whose format
    is that of the file.

    Args:
        folder: A checkpoint.
        base: One of `models.precision.FORMATS`.
        nf4: What a 4-bit base means.
        cache: Where 4-bit copies of the weights are kept; without it they are made each time.
        attention: One of `models.precision.ATTENTIONS`.
        device: Where the model goes.
        additions: Put beside the base; modules of theirs that the folder has no weights for, or weights of another size, are drawn
            from torch's generator.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: a format is unknown or unfit for the device, or the weights do not fit the configuration exactly.
    """
    folder = Path(folder)
    check_format(base, device)
    own = load_config(folder)
    config = extended(own, additions)
    model = empty_model(config)
    model.untrained, model.made_anew = module_patterns(additions), made_anew(own, config)
    stored = dict(read_tensors(folder)) | oft_tensors(folder)
    tensors = {name: tensor for name, tensor in stored.items() if not _left_out(name, config)}
    tensors |= initial_weights(model, _new_modules(own, additions, model))
    check_weights(tensors, model, folder)
    model.load_state_dict(tensors, assign=True)
    if base in FOUR_BITS:
        quantize(model, nf4, base=base, copy=quantized_copy(folder, nf4, cache), device=device)
    cast(model, base, device)
    check_finite(model.named_parameters(), folder)
    choose_attention(model, device, attention)
    return model.eval()


def weights(
    folder: Path, config: OpenVLAConfig, *, base: str, nf4: NF4 = OPENVLA_NF4, cache: Path | None = None
) -> Mapping[str, Tensor]:
    """What a model of `load` multiplies with, weight by weight from the files, 4-bit ones dequantised; no model is made.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: a pattern of `nf4` matches no linear layer.
    """
    opened, additions, dtype = places(folder), oft_tensors(folder), weight_dtype(base)
    linears = quantizable(empty_model(config), nf4) if base in FOUR_BITS else {}
    quantized = {f"{name}.weight" for name in linears}
    copy = quantized_copy(folder, nf4, cache) if base == TABULATED else None
    shapes = {name: linear.weight.shape for name, linear in linears.items()}
    blocks = dict(map_blocks(copy, shapes)) if copy is not None and is_written(copy) else {}

    def made(name: str) -> Tensor:
        tensor = additions[name] if name in additions else opened[name].get_tensor(name)
        if name in quantized:
            return rounded(tensor, base, blocks.get(name.removesuffix(".weight")))
        return tensor.to(dtype)

    return Weights([name for name in dict.fromkeys([*opened, *additions]) if not _left_out(name, config)], made)


def load_config(folder: Path) -> OpenVLAConfig:
    """The configuration in `folder`, with the additions of a published OpenVLA-OFT folder."""
    record = plain_config(folder)
    if record.get("model_type") != OpenVLAConfig.model_type:
        raise ValueError(f"{folder / CONFIG_FILE} has model_type={record.get('model_type')!r}; this loader reads 'openvla'.")
    config = OpenVLAConfig.from_dict(record)
    add_dimensions(config, folder)
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The text tokenizer in `folder`."""
    existing(folder / TOKENIZER_FILE)
    check_tokenizer(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def empty_model(config: OpenVLAConfig) -> OpenVLA:
    """The architecture without memory for its weights; buffers, which no checkpoint holds, are real."""
    undrawn = copy.copy(config)  # random numbers for weights that are not there are most of the time that it takes
    undrawn.timm_kwargs = [{**kwargs, "weight_init": "skip"} for kwargs in config.timm_kwargs]
    with no_init_weights(), init_empty_weights():
        model = OpenVLA(undrawn)
    model.config = config
    return model


def _left_out(name: str, config: OpenVLAConfig) -> bool:
    """Whether a weight is of the state's projector, which a model for a robot without a state does not have."""
    return not config.proprio_dimension and name.startswith("proprio_projector.")


def _new_modules(config: OpenVLAConfig, additions: Sequence[Addition], model: OpenVLA) -> list[str]:
    """Names of the modules in `model` that `additions` put there."""
    absent = [addition for addition in additions if extended(config, [addition]).to_dict() != config.to_dict()]
    patterns = module_patterns(absent)
    return matching_names([name for name, _ in model.named_modules()], patterns) if patterns else []


def check_weights(tensors: Mapping[str, Tensor], model: OpenVLA, folder: Path) -> None:
    """Refuse weights that do not fit the configuration exactly."""
    check_names(tensors, model, folder)
    for name, expected in model.state_dict().items():
        if tensors[name].shape != expected.shape:
            raise ValueError(
                f"{folder}: {name} has shape {tuple(tensors[name].shape)}, the configuration says {tuple(expected.shape)}."
            )


def check_names(names: Collection[str], model: OpenVLA, folder: Path) -> None:
    """Refuse other weights than those that the configuration asks for."""
    remedy = f"The weights do not fit the configuration: take both, {CONFIG_FILE} too, from the same checkpoint, without an adapter"
    check_tensor_names(names, model.state_dict().keys(), source=folder, remedy=remedy)
