"""A model of transformers without its weights, for planning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from transformers import ProcessorMixin

from vla_tune.models.base import Outline
from vla_tune.models.hf.inputs import LAYOUTS
from vla_tune.models.hf.model import HFVLA

_NO_IMAGE = ("language_model", "lm_head", "action_rows")


def outline(
    model: HFVLA,
    processor: ProcessorMixin,
    *,
    height: int,
    width: int,
    layout: str,
    image_options: Mapping[str, bool],
    nf4_targets: Sequence[str],
) -> Outline:
    """What a plan must know of `model` when it is given images of this size.

    A vision tower sees every patch; what stands between it and the language model is taken to see what that will see.
    """
    one, two = (_length(processor, layout, np.zeros((height, width, 3), np.uint8), count, image_options) for count in (1, 2))
    tokens = two - one
    parts = [name for name, _ in model.named_children() if name not in _NO_IMAGE]
    patches = _patches(model, height, width)
    return Outline(
        model=model,
        image_tokens=tokens,
        state_tokens=0,
        tokens={name: patches if name == _tower(parts, model) else tokens for name in parts},
        head="lm_head",
        nf4_targets=nf4_targets,
        unreached=[],
    )


def _length(
    processor: ProcessorMixin, layout: str, image: UInt8[np.ndarray, "H W 3"], count: int, image_options: Mapping[str, bool]
) -> int:
    """Ids of a prompt with `count` images: what stands around an image is as much its own as its patches."""
    text = LAYOUTS[layout].text(processor, "go", count)
    call = cast(Callable[..., Mapping[str, Any]], processor)
    made = call(images=[[image] * count], text=[text], return_tensors="np", images_kwargs=dict(image_options))
    return len(made["input_ids"][0])


def _patches(model: HFVLA, height: int, width: int) -> int:
    size = model.network.config.vision_config.patch_size
    rows, columns = (size, size) if isinstance(size, int) else size
    return (height // rows) * (width // columns)


def _tower(parts: Sequence[str], model: HFVLA) -> str:
    """The largest part that is no language model."""
    sizes = {name: sum(parameter.numel() for parameter in model.get_submodule(name).parameters()) for name in parts}
    return max(sizes, key=lambda name: sizes[name])
