"""What training changed in pictures, sentences and states, so that acting can answer to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vla_tune.schema.strict import YOUNGER

_STRONGEST = 10.0


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How each training sample is changed, anew every time it is seen; a policy that acts sees the centre crop of `crop_area`."""

    crop_area: float
    """Share of a picture that a crop at a random place keeps, of its proportions, scaled to the old size; 1.0 keeps everything."""
    brightness: float
    """At most this is added or taken away, in [0, 1] of the pixel's range."""
    contrast: tuple[float, float]
    """Distances from the picture's mean are multiplied by a number between these."""
    saturation: tuple[float, float]
    """HSV's saturation is multiplied by a number between these."""
    hue: float
    """HSV's hue is turned by at most this part of a turn, either way."""
    paraphrases: Mapping[str, tuple[str, ...]]
    """Instruction -> other words for it; it and each of them are as likely."""
    shift: float = field(default=0.0, metadata=YOUNGER)
    """Pictures are moved by whole pixels, at most this share of each side either way; their border is repeated."""
    state_noise: float = field(default=0.0, metadata=YOUNGER)
    """Standard deviation of what is added to the normalised state, so that it is no clock to play demonstrations back by."""


def check_augmentation(augmentation: Augmentation, source: str) -> None:
    """Refuse changes that cannot be made.

    Raises:
        ValueError: naming the field, what it says and what it may say.
    """
    if not 0 < augmentation.crop_area <= 1:
        raise ValueError(f"{source}: augmentation.crop_area={augmentation.crop_area} lies above 0 and up to 1 (no crop).")
    for name, most in (("brightness", 1.0), ("hue", 0.5), ("shift", 0.5), ("state_noise", 1.0)):
        if not 0 <= getattr(augmentation, name) <= most:
            raise ValueError(f"{source}: augmentation.{name}={getattr(augmentation, name)} lies between 0 and {most}.")
    for name in ("contrast", "saturation"):
        low, high = getattr(augmentation, name)
        if not 0 <= low <= high <= _STRONGEST:
            raise ValueError(f"{source}: augmentation.{name}=[{low}, {high}] must rise, from 0 or more to at most {_STRONGEST}.")
    for instruction, others in augmentation.paraphrases.items():
        if empty := [words for words in (instruction, *others) if not words.strip()]:
            raise ValueError(f"{source}: augmentation.paraphrases of {instruction!r} hold {empty[0]!r}: say it in words.")
