"""LoRA adapters as others publish them: folders that peft wrote, which do not say by a hash which base they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Params4bit
from peft import LoraConfig
from torch import Tensor, nn

from vla_tune.adapters.base import AdapterReport
from vla_tune.adapters.changes import Changes
from vla_tune.adapters.files import fit_tensors, open_tensors, read_tensors
from vla_tune.adapters.lora import Lora
from vla_tune.adapters.lora_file import CONFIG_FILE, PREFIX, WEIGHTS_FILE, read_config
from vla_tune.adapters.targets import full_names

_READ = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "init_lora_weights")
_IDLE = ("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version", "megatron_core")
"""What of peft's configuration says nothing about the function."""
_LEAVES_BASE = (True, False, "gaussian")
"""Values of `init_lora_weights` that do not change W."""


@dataclass(frozen=True, kw_only=True)
class PublishedLora:
    """A low-rank change that was published, to be used, merged or trained further; see `Lora` for what it computes.

    `attach` inserts it with its weights. The published file names no base by hash: whether `base` is the right one is known
    only where it carries a copy of the base's `lm_head`, which is compared. What is saved from here on names its base. A folder
    that a run of ours saved names it already: its weights come with `begin`, which compares the hash.
    """

    folder: str
    """Holds peft's `adapter_config.json` and `adapter_model.safetensors`."""
    base: str = "bf16"

    @cached_property
    def lora(self) -> Lora:
        """The same without weights, as the two files describe it."""
        return read_lora(Path(self.folder), base=self.base)

    def attach(self, model: nn.Module) -> AdapterReport:
        """Freeze the model and insert the published LoRA layers, in place.

        Raises:
            ValueError: they do not fit the model exactly, or were trained on another base.
        """
        report = self.lora.attach(model)
        if not self._names_its_base:
            load_published(Path(self.folder), model, self.lora)
        return report

    def begin(self, model: nn.Module, *, base_hash: str) -> None:
        """Read the weights that a run of ours saved; those of others came with `attach`.

        Raises:
            ValueError: they belong to another base.
        """
        if self._names_its_base:
            path = Path(self.folder) / WEIGHTS_FILE
            read_tensors(path, self.lora.stored(model), base=self.base, base_hash=base_hash)

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Write the adapter as `Lora` does."""
        self.lora.save(folder, model, base_hash=base_hash)

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        """Read what `save` wrote, not what was published."""
        self.lora.load(folder, model, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        """As `Lora.changes`, of what `save` wrote."""
        return self.lora.changes(folder, base_hash=base_hash)

    @cached_property
    def _names_its_base(self) -> bool:
        return "base_hash" in _open(Path(self.folder))[0]


def read_lora(folder: Path, *, base: str) -> Lora:
    """What peft's files in `folder` describe, whichever version of peft wrote them.

    The towers are those whose layers the weights name; a list of targets is taken as it is, and where a string stands in its place
    (`all-linear`), the targets are the last parts of those names.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the change is of a kind that this library does not compute.
    """
    record = read_config(folder)
    _refuse_other_kinds(folder / CONFIG_FILE, record)
    names = [name.removeprefix(PREFIX).split(".lora_")[0] for name in _open(folder)[1] if ".lora_" in name]
    listed = record["target_modules"]
    return Lora(
        rank=record["r"],
        alpha=record["lora_alpha"],
        dropout=record.get("lora_dropout", 0.0),
        targets=sorted(listed if isinstance(listed, list) else {name.split(".")[-1] for name in names}),
        base=base,
        towers=list(dict.fromkeys(name.split(".")[0] for name in names)),
        initialisation="gaussian" if record.get("init_lora_weights") == "gaussian" else "kaiming",
        learned_in_full=record.get("modules_to_save") or (),
    )


def load_published(folder: Path, model: nn.Module, lora: Lora) -> None:
    """Read published weights into `model`, to which `lora` is attached; strictly, but for the hash that they do not have.

    A weight of the base that was saved along is compared with the model's and dropped. What was added to the base since stays as
    it was drawn.

    Raises:
        FileNotFoundError: there are no weights, or pickled ones only.
        ValueError: the file is one of ours, belongs to another base, or a tensor is missing, left over or of another shape.
    """
    metadata, tensors = _open(folder)
    path = folder / WEIGHTS_FILE
    if "base_hash" in metadata:
        raise ValueError(f"{path} says which base it belongs to: load it with `Lora.load`, which checks that.")
    own = {name: tensor for name, tensor in tensors.items() if not _is_base_weight(path, name, tensor, model)}
    added = tuple(f"{PREFIX}{name}." for name in full_names(model, ()))
    expected = {name: weight for name, weight in lora.stored(model).items() if name in own or not name.startswith(added)}
    fit_tensors(path, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()}, expected)


def _open(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if (folder / "adapter_model.bin").is_file() and not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds adapter_model.bin, a pickle, which can run any code and is not opened: convert it to {WEIGHTS_FILE}."
        )
    return open_tensors(folder / WEIGHTS_FILE)


def _refuse_other_kinds(path: Path, record: Mapping[str, Any]) -> None:
    """Whatever differs from peft's defaults must be something that we read."""
    usual = LoraConfig().to_dict()
    other = {
        name: value
        for name, value in record.items()
        if name not in (*_READ, *_IDLE) and value and value != getattr(usual.get(name), "value", usual.get(name))
    }
    if record.get("init_lora_weights", True) not in _LEAVES_BASE:
        other["init_lora_weights"] = record["init_lora_weights"]
    missing = [name for name in ("peft_type", "r", "lora_alpha", "target_modules") if not record.get(name)]
    if missing:
        raise ValueError(f"{path} says nothing about {', '.join(missing)}: it is no configuration of peft's LoRA.")
    if other:
        raise ValueError(
            f"{path} has {other}: only plain LoRA is read here (rank, alpha, dropout, targets, modules_to_save). "
            "Merge it with the version of peft that wrote it, and use the merged checkpoint."
        )


def _is_base_weight(path: Path, name: str, saved: Tensor, model: nn.Module) -> bool:
    """Whether `name` is a weight of the base under a LoRA layer; it must then be the model's, as far as both dtypes tell."""
    own = dict(model.named_parameters()).get(name.removeprefix(PREFIX)) if ".base_layer." in name else None
    if own is None:
        return False
    if isinstance(own, Params4bit):
        raise ValueError(f"{path} holds {name} to be compared with the base, whose layer is 4-bit: load it with base=bf16.")
    coarse = min((own.dtype, saved.dtype), key=lambda dtype: dtype.itemsize)
    if own.shape != saved.shape or not torch.equal(own.detach().to("cpu", coarse), saved.to(coarse)):
        raise ValueError(f"{path}: its {name} is not that of the model: the adapter belongs to another base. Load that one.")
    return True
