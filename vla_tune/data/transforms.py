"""What happens to a sample between the dataset and the tokens; one verb per class, composed once (`vla_tune.data.pipeline`)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vla_tune.data.resize import check_rule, resize
from vla_tune.schema import Camera, ImageRule
from vla_tune.tokens import ActionTokenizer, BinTokenizer, uniform_edges

Sample = dict[str, Any]


@runtime_checkable
class Transform(Protocol):
    """A step of the pipeline; it returns a new sample and leaves the given one alone."""

    def __call__(self, sample: Sample) -> Sample:
        """The changed sample."""
        ...


@runtime_checkable
class Invertible(Transform, Protocol):
    """A step that changes actions, and can undo it."""

    def inverse(self, sample: Sample) -> Sample:
        """The sample with its `actions` as they were before this step."""
        ...


@dataclass(frozen=True)
class Compose:
    """Steps in order. The way back is derived: the inverses of those that have one, in reverse."""

    steps: tuple[Transform, ...]

    def __call__(self, sample: Sample) -> Sample:
        """A raw sample, with or without actions -> what `collate` reads."""
        for step in self.steps:
            sample = step(sample)
        return sample

    def inverse(self, sample: Sample) -> Sample:
        """The sample with its normalised `actions` [T A] in robot units; it must still hold the raw state."""
        for step in reversed(self.steps):
            if isinstance(step, Invertible):
                sample = step.inverse(sample)
        return sample

    def robot_actions(self, actions: Float[np.ndarray, "T A"], sample: Sample) -> Float32[np.ndarray, "T A"]:
        """Normalised actions predicted for `sample` (raw or processed) -> robot units."""
        return self.inverse(sample | {"actions": actions})["actions"]


@dataclass(frozen=True)
class SelectCameras:
    """Dataset keys -> the roles that the model knows, at exactly the sizes of the contract."""

    cameras: tuple[Camera, ...]

    def __call__(self, sample: Sample) -> Sample:
        """Adds `images`: role -> uint8 [H W 3]; the keys themselves are dropped.

        Raises:
            ValueError: a camera is missing, or its image has another size or type.
        """
        if missing := [camera for camera in self.cameras if camera.key not in sample]:
            wanted = ", ".join(f"{camera.role} <- {camera.key}" for camera in missing)
            raise ValueError(f"the sample has no image for {wanted}; it has {sorted(sample)}. Rename the camera on one side.")
        images = {camera.role: _checked(sample[camera.key], camera) for camera in self.cameras}
        return _without(sample, *(camera.key for camera in self.cameras)) | {"images": images}


@dataclass(frozen=True)
class ResizeImages:
    """Centre crop by area, then the model's size, on uint8, as `ImageRule.resize` says (`vla_tune.data.resize`).

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
        return _without(sample, "images") | {"pixel_values": (towers - means) / deviations}

    @cached_property
    def _constants(self) -> tuple[Float32[np.ndarray, "C 1 1"], Float32[np.ndarray, "C 1 1"]]:
        columns = np.array([self.rule.means, self.rule.deviations], np.float32).reshape(2, -1, 1, 1)
        return columns[0], columns[1]


@dataclass(frozen=True)
class EncodeActions:
    """Normalised `actions` -> `codes`; values beyond the episode's end count nowhere."""

    tokenizer: ActionTokenizer
    horizon: int

    def __call__(self, sample: Sample) -> Sample:
        """Adds `codes` int64 [K] and `code_mask` bool [K]; an observation, which has no actions, passes.

        Where a code stands for several values, all codes count.

        Raises:
            ValueError: the chunk has another length than the contract's horizon.
        """
        if "actions" not in sample:
            return sample
        actions = sample["actions"]
        if len(actions) != self.horizon:
            raise ValueError(f"the dataset gives chunks of {len(actions)} actions, the contract says {self.horizon}.")
        codes = self.tokenizer.encode(actions)
        mask = sample["action_mask"].reshape(-1) if self.tokenizer.free else np.ones(len(codes), dtype=bool)
        return sample | {"codes": codes, "code_mask": mask}


@dataclass(frozen=True)
class PrependLocation:
    """Codes that say where the named object is, before those of the chunk: a policy must find what it is told to act on.

    A pretraining sample has `location` [num_codes] in [-1, 1]; its codes are uniform bins. Demonstrations have none: then these
    labels count nowhere, and the positions stay, because the model's sequence does not change between training and acting.
    """

    num_codes: int
    vocabulary_size: int

    def __call__(self, sample: Sample) -> Sample:
        """`codes` and `code_mask`, longer by `num_codes` in front; an observation passes."""
        if "codes" not in sample or not self.num_codes:
            return sample
        known = "location" in sample
        codes = self._tokenizer.encode(sample["location"][None] if known else np.zeros((1, self.num_codes)))
        assert len(codes) == self.num_codes, f"a location of {len(codes)} numbers for {self.num_codes} codes"
        return sample | {
            "codes": np.concatenate([codes, sample["codes"]]),
            "code_mask": np.concatenate([np.full(self.num_codes, known), sample["code_mask"]]),
        }

    @cached_property
    def _tokenizer(self) -> BinTokenizer:
        return BinTokenizer(uniform_edges(256), self.vocabulary_size)


def _checked(image: Any, camera: Camera) -> UInt8[np.ndarray, "H W 3"]:
    expected = (camera.height, camera.width, 3)
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if shape != expected or kind != np.uint8:
        raise ValueError(
            f"camera {camera.role!r} ({camera.key}) gives {kind} {shape}, the contract says uint8 {expected}: "
            "resize at the source, or write the true size in the embodiment."
        )
    return image


def _without(sample: Sample, *keys: str) -> Sample:
    return {key: value for key, value in sample.items() if key not in keys}
