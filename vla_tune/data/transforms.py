"""What happens to a sample between the dataset and the model; one verb per class, composed once (`vla_tune.data.pipeline`)."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vla_tune.schema import Camera

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
