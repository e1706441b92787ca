"""What a behaviour cloner brings between a robot's samples and its network: small pictures and words."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from vla_tune.data.transforms import Sample, Transform
from vla_tune.models.base import ActionModel
from vla_tune.models.bc.model import BCModel
from vla_tune.models.bc.record import BCRecord
from vla_tune.schema import Contract

_MOST_WORDS = 64


@dataclass(frozen=True)
class SmallPictures:
    """Pictures of any size -> squares, by the mean of what each pixel covers, which ignores the aspect ratio."""

    size: int
    roles: tuple[str, ...]
    """The order of the views."""

    def __call__(self, sample: Sample) -> Sample:
        """Replaces `images` by `pixel_values` float32 [V 3 size size] in [-1, 1]."""
        pixels = np.empty((len(self.roles), self.size, self.size, 3), np.float32)
        for view, role in zip(pixels, self.roles, strict=True):
            seen = squared(sample["images"][role], self.size)
            for colour in range(3):  # rows of numbers are copied faster than pixels of three
                view[..., colour] = seen[..., colour]
        pixels /= np.float32(127.5)
        pixels -= np.float32(1)
        pixels = pixels.transpose(0, 3, 1, 2)  # a view: convolutions want the channels last in memory
        return {key: value for key, value in sample.items() if key != "images"} | {"pixel_values": pixels}


@dataclass(frozen=True)
class Words:
    """A sentence -> a number for each of its words.

    There is no vocabulary: a word that nobody trained on is a number like any other, which the network never met. So a wrong
    sentence is tried as any is, and what it leads to is measured (`wrong_instruction`), as for a model that has read a lot.
    """

    def __call__(self, sample: Sample) -> Sample:
        """Adds `input_ids` int64 [L]."""
        return sample | {"input_ids": word_ids(sample["instruction"])}


@dataclass(frozen=True, eq=False)
class BCInputs:
    """A contract as a behaviour cloner reads it (a `ModelInterface`)."""

    contract: Contract
    record: BCRecord

    @property
    def steps(self) -> tuple[Transform, ...]:
        """Pixels and words."""
        roles = tuple(camera.role for camera in self.contract.embodiment.cameras)
        return SmallPictures(self.record.size, roles), Words()

    @property
    def pad_id(self) -> int:
        """Any: what is padded is masked."""
        return 0

    def check(self, instruction: str) -> None:
        """Refuse a sentence without words, or with too many of them.

        Raises:
            ValueError: naming it.
        """
        word_ids(instruction)

    def over(self, network: Any) -> ActionModel:
        """The network's two verbs."""
        return BCModel(network, self.contract.horizon)


def squared(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture as a square by Pillow's rule; one that is such a square already is returned as it is."""
    if image.shape[:2] == (size, size):
        return image
    if image.shape[:2] == (2 * size, 2 * size):
        return _halved(image)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))


def _halved(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """What Pillow says of a picture twice as large, in a third of the time: it rounds half up, across first and then down."""
    across = _rounded_mean(image[:, :-1], image[:, 1:])  # of all neighbours, since every second one is slower to reach
    return _rounded_mean(across[::2], across[1::2])[:, ::2]


def _rounded_mean(one: UInt8[np.ndarray, "*N"], other: UInt8[np.ndarray, "*N"]) -> UInt8[np.ndarray, "*N"]:
    """(one + other + 1) // 2, without leaving 8 bits."""
    return (one | other) - ((one ^ other) >> 1)


@lru_cache(maxsize=1024)
def word_ids(instruction: str) -> Int64[np.ndarray, " L"]:
    """CRC-32 of each word's small letters; what is no letter, digit or underscore stands between words. Not to be written to.

    Raises:
        ValueError: there is none, or there are more than 64.
    """
    words = re.findall(r"\w+", instruction.lower())
    if not 1 <= len(words) <= _MOST_WORDS:
        raise ValueError(
            f"the instruction {instruction[:80]!r} has {len(words)} words: say what the robot should do in 1 to {_MOST_WORDS}."
        )
    ids = np.array([crc32(word.encode()) for word in words], np.int64)
    ids.flags.writeable = False
    return ids
