"""What a published OpenVLA-OFT folder holds beside the merged weights (arXiv 2502.19645; openvla-oft): one file per addition.

    action_head--<step>_checkpoint.pt         the regression head
    proprio_projector--<step>_checkpoint.pt   the projector of the robot's state
    vision_backbone--<step>_checkpoint.pt     both vision towers with FiLM, their LoRA unmerged

They are read without unpickling (`models.torch_file`).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.torch_file import read_torch_file, stored_tensors

PARTS = ("action_head", "proprio_projector", "vision_backbone")
PATTERNS = tuple(f"{part}--*_checkpoint.pt" for part in PARTS)
_LARGEST_ALPHA = 16
"""The original trains with alpha = min(rank, 16)."""


def oft_files(folder: Path) -> dict[str, Path]:
    """The files that there are, by part.

    Raises:
        ValueError: there are several of one part.
    """
    found = {part: sorted(folder.glob(f"{part}--*_checkpoint.pt")) for part in PARTS}
    for part, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"{folder} has {', '.join(path.name for path in paths)}: keep the {part} of the step that you want.")
    return {part: paths[0] for part, paths in found.items() if paths}


def add_dimensions(config: OpenVLAConfig, folder: Path) -> None:
    """Write into `config`, in place, what the files say about their sizes.

    Raises:
        ValueError: a file does not hold what its name says.
    """
    shapes = {
        part: {_plain(name): place.shape for name, place in stored_tensors(path).items()}
        for part, path in oft_files(folder).items()
    }
    if "action_head" in shapes:
        config.action_head_dimension = _of(shapes["action_head"], "model.fc2.weight", folder, "the L1 action head")[0]
    if "proprio_projector" in shapes:
        config.proprio_dimension = _of(shapes["proprio_projector"], "fc1.weight", folder, "the proprioception projector")[1]
    if "vision_backbone" in shapes:
        name = "vision_backbone.featurizer.blocks.0.scale.weight"
        config.film_dimension = _of(shapes["vision_backbone"], name, folder, "a vision backbone with FiLM")[1]


def oft_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights in the files, under our names; those of the vision towers replace the merged ones.

    Raises:
        ValueError: a file cannot be read, or a LoRA layer is incomplete.
    """
    tensors: dict[str, Tensor] = {}
    for part, path in oft_files(folder).items():
        read = {_plain(name): tensor for name, tensor in read_torch_file(path).items()}
        if part == "vision_backbone":
            tensors |= {name.replace(".block.", "."): tensor for name, tensor in _merged(read, path).items()}
        else:
            tensors |= {f"{part}.{name}": tensor for name, tensor in read.items()}
    return tensors


def oft_hash(folder: Path, weights: str) -> str:
    """SHA-256 of the merged `weights`, which is given, and of the files; the first alone where there are none."""
    files = oft_files(folder)
    if not files:
        return weights
    digest = hashlib.sha256(weights.encode())
    for path in files.values():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _plain(name: str) -> str:
    """Without what distributed training puts in front."""
    return name.removeprefix("module.")


def _of(shapes: Mapping[str, tuple[int, ...]], name: str, folder: Path, meaning: str) -> tuple[int, ...]:
    if name not in shapes or len(shapes[name]) != 2:
        raise ValueError(
            f"{folder}: the file that should hold {meaning} has no matrix {name}, but {sorted(shapes)[:3]}: it is of another kind."
        )
    return shapes[name]


def _merged(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """W + (alpha / rank) B A where LoRA was left unmerged, in float32, as the original's evaluation computes."""
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if ".lora_" not in name}
    layers = {name.partition(".lora_")[0] for name in tensors if ".lora_" in name}
    for layer in layers:
        down, up = (tensors.get(f"{layer}.lora_{part}.default.weight") for part in "AB")
        if down is None or up is None or f"{layer}.weight" not in plain:
            raise ValueError(f"{path}: the LoRA of {layer} is incomplete. Download the file again.")
        weight, rank = plain[f"{layer}.weight"], len(down)
        change = (up.float().flatten(1) @ down.float().flatten(1)).reshape(weight.shape)
        plain[f"{layer}.weight"] = weight.float() + min(rank, _LARGEST_ALPHA) / rank * change
    return plain
