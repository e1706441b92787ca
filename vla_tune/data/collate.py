"""Samples -> the batch that a model reads; torch begins here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vla_tune.tokens import IGNORED

_MAPPINGS = ("vision_inputs", "token_inputs")
"""Fields that hold several tensors by name."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a model and its head read; `labels`, `actions` and `action_mask` are `None` at inference."""

    pixel_values: Float[Tensor, "B V C H W"] | None = None
    """`None` where the model's own processor made the inputs."""
    input_ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"]
    placeholders: Bool[Tensor, "B L"]
    """Positions whose embeddings are zeroed: those decoded in parallel, and those of locations at the end of a prompt."""
    prompt_length: Int[Tensor, " B"]
    """Ids before the first code."""
    parallel: bool
    """Whether there are placeholders behind the prompt; then every position sees every other.

    This and `padded` are known from the samples, so that no device is asked in the middle of a pass.
    """
    padded: bool
    """Whether a row is shorter than the batch is long."""
    state: Float[Tensor, "B S"]
    labels: Int[Tensor, "B L"] | None = None
    actions: Float[Tensor, "B T A"] | None = None
    action_mask: Bool[Tensor, "B T A"] | None = None
    """False where the chunk ran past the end of its episode: not learned from."""
    index: Int[Tensor, "B 2"] | None = None
    """Episode and frame, so that an error can name them."""
    vision_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What a model's own processor made of the images; rows of all samples one after the other, as the model's class wants them."""
    token_inputs: Mapping[str, Int[Tensor, "B L"]] = field(default_factory=dict)
    """What it says about each of `input_ids`, e.g. which are of an image."""

    def __len__(self) -> int:
        """B."""
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        return self.with_tensors({name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """What there is, by name; what lies in a mapping, as `mapping.name`."""
        named = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        mapped = {f"{name}.{key}": child for name in _MAPPINGS for key, child in named[name].items()}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)} | mapped

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Batch":
        """The same batch in other memory: `tensors` hold the same values, or values for the same places."""
        plain = {name: tensor for name, tensor in tensors.items() if "." not in name}
        mapped = {name: {key: tensors[f"{name}.{key}"] for key in getattr(self, name)} for name in _MAPPINGS}
        return replace(self, **plain, **mapped)


def collate(samples: Sequence[dict[str, Any]], *, pad_id: int, multiple: int = 1) -> Batch:
    """Stack samples; text is padded on the right to the longest, rounded up to `multiple`.

    Padding takes part in nothing: it is masked from attention and its labels are `IGNORED`. Labels of padded actions are
    `IGNORED` too, where one code stands for one action value. Samples of models that speak no codes have no labels and no
    placeholders, and all of their ids are the prompt.
    """
    lengths = [len(sample["input_ids"]) for sample in samples]
    if "placeholders" not in samples[0]:
        samples = [sample | _no_codes(length) for sample, length in zip(samples, lengths, strict=True)]
    length = -(-max(lengths) // multiple) * multiple
    text = {
        "input_ids": _padded(samples, "input_ids", length, pad_id),
        "placeholders": _padded(samples, "placeholders", length, False),
        "attention_mask": torch.arange(length) < torch.tensor(lengths)[:, None],
    }
    known = {
        "parallel": any(bool(sample["placeholders"][sample["prompt_length"] :].any()) for sample in samples),
        "padded": min(lengths) < length,
    }
    if "actions" in samples[0]:
        text |= {name: _stacked(samples, name) for name in ("actions", "action_mask", "index")}
        text |= {"labels": _padded(samples, "labels", length, IGNORED)} if "labels" in samples[0] else {}
    images = ["pixel_values"] if "pixel_values" in samples[0] else []
    stacked = {name: _stacked(samples, name) for name in (*images, "prompt_length", "state")}
    return Batch(**stacked, **text, **known, **_processed(samples, length))


def _no_codes(length: int) -> dict[str, np.ndarray]:
    return {"placeholders": np.zeros(length, dtype=bool), "prompt_length": np.array(length)}


def _processed(samples: Sequence[dict[str, Any]], length: int) -> dict[str, Any]:
    """What a model's own processor made, if one did."""
    vision, tokens = ([sample.get(name, {}) for sample in samples] for name in ("vision_inputs", "token_inputs"))
    return {
        "vision_inputs": {name: torch.from_numpy(np.concatenate([each[name] for each in vision])) for name in vision[0]},
        "token_inputs": {name: _padded(tokens, name, length, 0) for name in tokens[0]},
    }


def _stacked(samples: Sequence[dict[str, Any]], name: str) -> Tensor:
    return torch.from_numpy(np.stack([sample[name] for sample in samples]))


def _padded(samples: Sequence[dict[str, Any]], name: str, length: int, fill: int | bool) -> Tensor:
    rows = np.full((len(samples), length), fill, samples[0][name].dtype)
    for row, sample in zip(rows, samples, strict=True):
        row[: len(sample[name])] = sample[name]
    return torch.from_numpy(rows)
