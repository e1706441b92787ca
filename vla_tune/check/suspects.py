"""Known mistakes between a camera and a model, tried out: what makes a policy better again is what is wrong with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vla_tune.schema import Observation, Policy

Picture = UInt8[np.ndarray, "H W 3"]


def _cropped(image: Picture) -> Picture:
    """The middle nine tenths of the area at the old size, as OpenVLA evaluates what it trained with random crops."""
    height, width = image.shape[:2]
    top, left = (round(size * (1 - np.sqrt(0.9)) / 2) for size in (height, width))
    middle = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, (left, top, width - left, height - top))
    return np.asarray(middle)


SUSPECTS: Mapping[str, Callable[[Picture], Picture]] = {
    "its images have their channels swapped: BGR for RGB. Convert them where the camera is read": lambda image: image[..., ::-1],
    "the centre crop of training is missing. Set center_crop_area as in training": _cropped,
    "its images are upside down. Turn them where the camera is read": lambda image: image[::-1, ::-1],
    "its images are mirrored left to right": lambda image: image[:, ::-1],
    "its images are mirrored top to bottom": lambda image: image[::-1],
}
"""What is wrong -> the change of an image that undoes it."""


@dataclass(frozen=True)
class Mended:
    """A policy that is shown changed images."""

    policy: Policy
    change: Callable[[Picture], Picture]

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in robot units."""
        return self.policy.act([replace(one, images=self._changed(one.images)) for one in observations])

    def reset(self) -> None:
        """A new episode begins."""
        self.policy.reset()

    def _changed(self, images: Mapping[str, Picture]) -> dict[str, Picture]:
        return {role: np.ascontiguousarray(self.change(image)) for role, image in images.items()}
