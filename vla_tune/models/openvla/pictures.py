"""Pictures -> OpenVLA's pixels, as Prismatic's image processor makes them: three ways to fit into the model's square, on uint8."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from vla_tune.data.jpeg import through_jpeg
from vla_tune.data.sampling import centre_box, crop_resized, lanczos3
from vla_tune.data.transforms import Sample
from vla_tune.models.openvla.record import ImageRule

_LEAST_DEVIATION = 1e-3

type _Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ResizeImages:
    """Centre crop by area, then the model's size, on uint8, as `ImageRule.resize` says.

    The crop keeps sqrt(area) of each side, so an augmented base sees at test time what it saw on average in training.

    Raises:
        ValueError: the rule contradicts itself.
    """

    rule: ImageRule

    def __post_init__(self) -> None:
        check_rule(self.rule)

    def __call__(self, sample: Sample) -> Sample:
        """`images` at the model's size."""
        return sample | {"images": {role: resize(image, self.rule) for role, image in sample["images"].items()}}


@dataclass(frozen=True)
class NormalizePixels:
    """uint8 -> float32 `(x / 255 - mean) / deviation`, once per vision tower, stacked along the channels."""

    rule: ImageRule
    roles: tuple[str, ...]
    """The order of the views."""

    def __call__(self, sample: Sample) -> Sample:
        """Replaces `images` by `pixel_values` float32 [V C H W], C = 3 per tower."""
        images = np.stack([sample["images"][role] for role in self.roles]).transpose(0, 3, 1, 2)
        means, deviations = self._constants
        towers = np.tile(images.astype(np.float32) / np.float32(255), (1, len(self.rule.means), 1, 1))
        return {key: value for key, value in sample.items() if key != "images"} | {"pixel_values": (towers - means) / deviations}

    @cached_property
    def _constants(self) -> tuple[Float32[np.ndarray, "C 1 1"], Float32[np.ndarray, "C 1 1"]]:
        columns = np.array([self.rule.means, self.rule.deviations], np.float32).reshape(2, -1, 1, 1)
        return columns[0], columns[1]


def check_rule(rule: ImageRule) -> None:
    """Refuse a rule that no strategy can follow.

    Raises:
        ValueError: the model's picture is no square where it must be one, a centre crop meets padding, or numbers are none of a
            picture's.
    """
    if not 0 < rule.center_crop_area <= 1:
        raise ValueError(f"center_crop_area={rule.center_crop_area:g} lies above 0 and up to 1, which keeps the whole picture.")
    if not 0 < len(rule.means) == len(rule.deviations):
        raise ValueError(f"{len(rule.means)} means and {len(rule.deviations)} deviations: each vision tower has one of both.")
    for what, triples, least in (("means", rule.means, 0.0), ("deviations", rule.deviations, _LEAST_DEVIATION)):
        if wrong := [triple for triple in triples if not least <= min(triple) <= max(triple) <= 1]:
            raise ValueError(f"{what} of colours hold {wrong[0]}: they lie between {least:g} and 1, of pictures from 0 to 1.")
    if rule.resize != "resize-naive" and rule.height != rule.width:
        raise ValueError(f"{rule.resize} gives squares, the model's pictures are {rule.height} x {rule.width}: use resize-naive.")
    if rule.resize == "letterbox" and rule.center_crop_area != 1:
        raise ValueError(
            f"center_crop_area={rule.center_crop_area} with letterbox: one cuts the borders off, the other adds some. Use 1.0."
        )


def resize(image: UInt8[np.ndarray, "H W 3"], rule: ImageRule) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of the model's size: JPEG and Lanczos where the rule says so, centre crop, then `rule.resize`, bicubic.

    The crop keeps sqrt(area) of each side. A picture that has the size already is returned as it is.
    """
    image = image if rule.input_jpeg is None else through_jpeg(image, rule.input_jpeg)
    image, side = _CROPS[rule.crop](_INPUT_RESIZES[rule.input_resize](image, rule), rule)
    height, width = image.shape[:2]
    if side == 1 and (height, width) == (rule.height, rule.width):
        return image
    left, top = width * (1 - side) / 2, height * (1 - side) / 2
    return np.asarray(STRATEGIES[rule.resize](Image.fromarray(image), (left, top, width - left, height - top), rule))


def letterbox_fill(rule: ImageRule) -> tuple[int, ...]:
    """The colour of the borders: the last tower's mean."""
    return tuple(int(mean * 255) for mean in rule.means[-1])


def _naive(picture: Image.Image, box: _Box, rule: ImageRule) -> Image.Image:
    """Ignores the aspect ratio."""
    return picture.resize((rule.width, rule.height), Image.Resampling.BICUBIC, box=box)


def _crop(picture: Image.Image, box: _Box, rule: ImageRule) -> Image.Image:
    """The shorter side to the model's, and the middle of the longer one (rounded as torchvision does)."""
    width, height = box[2] - box[0], box[3] - box[1]
    size = rule.height
    long = int(size * max(width, height) / min(width, height))
    scaled = picture.resize((size, long) if width <= height else (long, size), Image.Resampling.BICUBIC, box=box)
    left, top = round((scaled.width - size) / 2), round((scaled.height - size) / 2)
    return scaled.crop((left, top, left + size, top + size))


def _letterbox(picture: Image.Image, box: _Box, rule: ImageRule) -> Image.Image:
    """Borders along the longer sides, then as `_crop`: an odd difference leaves one row or column to crop."""
    longest = max(picture.size)
    across, down = (longest - picture.width) // 2, (longest - picture.height) // 2
    padded = ImageOps.expand(picture, border=(across, down, across, down), fill=letterbox_fill(rule))
    return _crop(padded, (0.0, 0.0, float(padded.width), float(padded.height)), rule)


type _Picture = UInt8[np.ndarray, "H W 3"]
type _Changed = UInt8[np.ndarray, "h w 3"]


def _in_the_resize(image: _Picture, rule: ImageRule) -> tuple[_Changed, float]:
    """The picture, and the share of its sides that the resize is to keep."""
    return image, sqrt(rule.center_crop_area)


def _bilinear(image: _Picture, rule: ImageRule) -> tuple[_Changed, float]:
    if rule.center_crop_area < 1:
        image = crop_resized(image, centre_box(rule.center_crop_area), rule.height, rule.width)
    return image, 1.0


def _as_it_is(image: _Picture, rule: ImageRule) -> _Changed:
    return image


def _lanczos(image: _Picture, rule: ImageRule) -> _Changed:
    return image if image.shape[:2] == (rule.height, rule.width) else lanczos3(image, rule.height, rule.width)


_INPUT_RESIZES: dict[str, Callable[[_Picture, ImageRule], _Changed]] = {"none": _as_it_is, "lanczos3": _lanczos}
_CROPS: dict[str, Callable[[_Picture, ImageRule], tuple[_Changed, float]]] = {
    "pil_bicubic": _in_the_resize,
    "tf_bilinear": _bilinear,
}
"""By what a rule says."""
STRATEGIES: dict[str, Callable[[Image.Image, _Box, ImageRule], Image.Image]] = {
    "resize-naive": _naive,
    "resize-crop": _crop,
    "letterbox": _letterbox,
}
"""By Prismatic's names, which are those of `ImageRule.resize`."""
