"""Random changes of training samples: pictures before the model's resize, instructions, and the normalised state.

Each follows from two numbers, the run's seed and which sample of the run it is. So a run that was cut goes on with the same
pictures, whatever the number of processes that prepare them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from vla_tune.data.colours import brightened, contrasted, hue_turned, saturated
from vla_tune.data.sampling import centre_box, crop_and_resize, crop_resized, to_bytes, to_unit
from vla_tune.data.transforms import Sample
from vla_tune.schema import Augmentation, check_augmentation, read_object

_PICTURES, _WORDS, _PLACES, _STATES = 1, 2, 3, 4
"""Streams of numbers."""


def augmentation(
    *,
    crop_area: float,
    brightness: float,
    contrast: Sequence[float],
    saturation: Sequence[float],
    hue: float,
    paraphrases: Mapping[str, Sequence[str]] | str,
    shift: float = 0.0,
    state_noise: float = 0.0,
) -> Augmentation:
    """The record of an augmentation; `paraphrases` may be a JSON file that holds {"instruction": ["other words", ...]}.

    Raises:
        ValueError: a number is out of its range, or an instruction has no list of other words.
    """
    spoken = read_object(Path(paraphrases)) if isinstance(paraphrases, str) else paraphrases
    for instruction, others in spoken.items():
        if isinstance(others, str) or not isinstance(others, Sequence) or not all(isinstance(words, str) for words in others):
            raise ValueError(f"augmentation.paraphrases of {instruction!r} are {others!r}: give a list of sentences.")
    if len(contrast) != 2 or len(saturation) != 2:
        raise ValueError(f"augmentation: contrast={contrast} and saturation={saturation} are two numbers each, from and to.")
    made = Augmentation(
        crop_area=float(crop_area),
        brightness=float(brightness),
        contrast=(float(contrast[0]), float(contrast[1])),
        saturation=(float(saturation[0]), float(saturation[1])),
        hue=float(hue),
        paraphrases={instruction: tuple(others) for instruction, others in spoken.items()},
        shift=float(shift),
        state_noise=float(state_noise),
    )
    check_augmentation(made, "the configuration")
    return made


def sentences(changes: Augmentation | None, instructions: Iterable[str]) -> tuple[str, ...]:
    """All that a training may say: the data's `instructions`, and other words for them.

    Raises:
        ValueError: there are other words for what no episode says.
    """
    said = tuple(instructions)
    paraphrases = changes.paraphrases if changes else {}
    if unknown := sorted(paraphrases.keys() - set(said)):
        few = ", ".join(map(repr, said[:5]))
        raise ValueError(
            f"augmentation.paraphrases of {unknown[0]!r}, which no episode says; they say {few}: correct the sentence."
        )
    return tuple(dict.fromkeys((*said, *(words for others in paraphrases.values() for words in others))))


@dataclass(frozen=True)
class AugmentImages:
    """A random crop and its resize to the old size, then brightness, contrast, saturation and hue, each clipped to [0, 1].

    As OpenVLA's training does (arXiv 2406.09246, RLDS `image_aug`), on pictures at the camera's size; each camera has its own
    numbers. One difference: both offsets of its crops come from one number, so that they lie on the diagonal; here they are two.
    A shift, where there is one, comes last. For what changes nothing no number is drawn.
    """

    changes: Augmentation

    def __call__(self, sample: Sample) -> Sample:
        """`images` of the same sizes, as `draw` decides."""
        seed, number = sample["draw"]
        roles = sorted(sample["images"])
        images = {role: self._changed(sample["images"][role], seed, number, place) for place, role in enumerate(roles)}
        return sample | {"images": images}

    def _changed(self, image: UInt8[np.ndarray, "H W 3"], *draw: int) -> UInt8[np.ndarray, "H W 3"]:
        changes = self.changes
        seen = augmented(image, changes, _numbers(_PICTURES, *draw)) if self._repaints else image
        return shifted(seen, changes.shift, _numbers(_PLACES, *draw)) if changes.shift else seen

    @cached_property
    def _repaints(self) -> bool:
        return self.changes.crop_area < 1 or any(not low == high == neutral for _, low, high, neutral in _ways(self.changes))


@dataclass(frozen=True)
class Paraphrase:
    """An instruction in its own words, or in others for it; each is as likely."""

    paraphrases: Mapping[str, tuple[str, ...]]

    def __call__(self, sample: Sample) -> Sample:
        """`instruction`, as `draw` decides."""
        said, (seed, number) = sample["instruction"], sample["draw"]
        if said not in self.paraphrases:
            return sample
        choices = (said, *self.paraphrases[said])
        return sample | {"instruction": choices[int(_numbers(_WORDS, seed, number).integers(len(choices)))]}


@dataclass(frozen=True)
class DisturbState:
    """A normalised state with noise on it; of deviation 0, as it is."""

    deviation: float

    def __call__(self, sample: Sample) -> Sample:
        """`state`, as `draw` decides."""
        seed, number = sample["draw"]
        noise = _numbers(_STATES, seed, number).standard_normal(sample["state"].shape, np.float32)
        return sample | {"state": sample["state"] + np.float32(self.deviation) * noise}


@dataclass(frozen=True)
class CropImages:
    """The middle of each picture at its old size, as a policy trained on random crops of `area` sees it on average."""

    area: float

    def __call__(self, sample: Sample) -> Sample:
        """`images` of the same sizes."""
        return sample | {"images": {role: self._cropped(image) for role, image in sample["images"].items()}}

    def _cropped(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        return crop_resized(image, centre_box(self.area), *image.shape[:2])


def augmented(image: UInt8[np.ndarray, "H W 3"], changes: Augmentation, numbers: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """A picture changed at random, of the same size; `numbers` are drawn in a fixed order."""
    down, across, *shares = numbers.uniform(size=6)
    pixels, side = to_unit(image), np.sqrt(changes.crop_area)
    if changes.crop_area < 1:
        top, left = down * (1 - side), across * (1 - side)
        pixels = crop_and_resize(pixels, (top, left, top + side, left + side), *image.shape[:2])
    return to_bytes(np.moveaxis(_coloured(np.ascontiguousarray(np.moveaxis(pixels, 2, 0)), changes, shares), 0, 2))


def shifted(image: UInt8[np.ndarray, "H W 3"], share: float, numbers: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """A picture moved at random by whole pixels, at most `share` of each side (arXiv 2004.13649, DrQ); the border is repeated."""
    if not share:
        return image
    for axis, side in enumerate(image.shape[:2]):
        most = max(1, round(share * side))
        image = _moved(image, int(numbers.integers(-most, most + 1)), axis)
    return image


def _moved(image: UInt8[np.ndarray, "H W 3"], by: int, axis: int) -> UInt8[np.ndarray, "H W 3"]:
    """Pixel i + `by` at place i along an axis; slices are copied in a seventh of the time that an index for each pixel takes."""
    if not by:
        return image
    before = (slice(None),) * axis
    if by > 0:
        return np.concatenate([image[(*before, slice(by, None))], *[image[(*before, slice(-1, None))]] * by], axis)
    return np.concatenate([*[image[(*before, slice(1))]] * -by, image[(*before, slice(by))]], axis)


def _coloured(planes: Float32[np.ndarray, "3 H W"], changes: Augmentation, shares: Sequence[float]) -> Float32[np.ndarray, "3 H W"]:
    """What changes nothing is left out."""
    for (change, low, high, neutral), share in zip(_ways(changes), shares, strict=True):
        if not low == high == neutral:
            planes = np.clip(change(planes, low + (high - low) * share), 0, 1)
    return planes


def _ways(changes: Augmentation) -> tuple[tuple[Callable[..., np.ndarray], float, float, float], ...]:
    """Each change of colours with its least, its largest, and the number that changes nothing."""
    return (
        (brightened, -changes.brightness, changes.brightness, 0.0),
        (contrasted, *changes.contrast, 1.0),
        (saturated, *changes.saturation, 1.0),
        (hue_turned, -changes.hue, changes.hue, 0.0),
    )


def _numbers(stream: int, seed: int, number: int, place: int = 0) -> np.random.Generator:
    return np.random.default_rng([stream, seed, number, place])
