"""A probe for models that run without an error and see or hear nothing.

transformers from 4.50 on made published OpenVLA code blind: the loss fell, and no image reached the language model.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vla_tune.models.forward import Forward
from vla_tune.schema import Embodiment

_INSTRUCTION, _OTHER = "push the red block to the blue block", "push the blue block to the red block"
"""The same words in another order, so that they have as many tokens and no position moves."""
_SMALLEST = 1e-5
"""Of the logits' deviation; a model that does not react changes by exactly nothing."""


def check_liveness(forward: Forward, pipeline: Callable[[dict[str, Any]], dict[str, Any]], body: Embodiment) -> None:
    """Compare what two images and two instructions lead to, in three forward passes: logits, or actions where there are none.

    `pipeline` makes a sample of a raw one, as for an observation.

    Raises:
        ValueError: they are the same, or no numbers.
    """
    expected, seen, told = (forward(forward.reaction, [sample]) for sample in probes(pipeline, body))
    if not all(logits.isfinite().all() for logits in (expected, seen, told)):
        raise ValueError(
            "the model answers with NaN or infinite logits: its weights or those of its adapter are damaged. Copy them again."
        )
    remedy = (
        "The weights do not belong to this architecture or this version of transformers: take those of the lock file (uv sync), "
        "and a checkpoint of this very class."
    )
    if _change(seen, expected) < _SMALLEST:
        raise ValueError(f"the model is blind: another image leaves its logits as they are. {remedy}")
    if _change(told, expected) < _SMALLEST:
        raise ValueError(f"the model is deaf: another instruction leaves its logits as they are. {remedy}")


def probes(
    pipeline: Callable[[dict[str, Any]], dict[str, Any]], body: Embodiment
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A processed sample, one with other images, and one with another instruction."""
    noise = np.random.default_rng(0)
    dark, bright = ({camera.key: _image(noise, camera.height, camera.width, low) for camera in body.cameras} for low in (0, 128))
    state = {body.state_key: np.zeros(body.state_dimension, np.float32)}
    plain = pipeline(state | dark | {"instruction": _INSTRUCTION})
    return plain, pipeline(state | bright | {"instruction": _INSTRUCTION}), pipeline(state | dark | {"instruction": _OTHER})


def _image(noise: np.random.Generator, height: int, width: int, low: int) -> np.ndarray:
    return noise.integers(low, low + 128, (height, width, 3), dtype=np.uint8)


def _change(logits: Float[Tensor, "1 ..."], expected: Float[Tensor, "1 ..."]) -> float:
    return ((logits - expected).abs().max() / expected.std()).item()
