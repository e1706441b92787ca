"""What happens to a robot's sample before its model's own steps; one verb per class, composed once (`vla_tune.data.pipeline`)."""

from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from vla_tune.data.normalize import CLIPPED, ends
from vla_tune.schema import Camera, ColumnStatistics

Sample = dict[str, Any]
_EPSILON = 1e-8
"""OpenVLA's, against a division by zero (openvla-spec, "Normalisation")."""


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


@runtime_checkable
class Samples(Sized, Protocol):
    """A map-style dataset."""

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """One sample."""
        ...


@dataclass(frozen=True, eq=False)
class Transformed:
    """A map-style dataset of pipelined samples; an error in the pipeline names episode and frame."""

    samples: Samples
    pipeline: Transform

    def __len__(self) -> int:
        """As many as there are raw samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample, ready for `collate`.

        Raises:
            ValueError: a step refuses it; episode and frame are named.
        """
        return self._piped(self.samples[index])

    def drawn(self, index: int, *, draw: tuple[int, int]) -> dict[str, Any]:
        """The same for a pipeline that changes samples at random, as `draw` decides; raises as `[index]` does."""
        return self._piped(self.samples[index] | {"draw": draw})

    def _piped(self, sample: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.pipeline(sample)
        except ValueError as error:
            episode, frame = sample["index"]
            raise ValueError(f"episode {episode}, frame {frame}: {error}") from error


@dataclass(frozen=True)
class SelectCameras:
    """The pictures of the contract's cameras, by role, at exactly their sizes.

    This is where a data set's keys become roles; a robot and an environment have translated their own names, so that an
    observation's `images` are by role already.
    """

    cameras: tuple[Camera, ...]

    def __call__(self, sample: Sample) -> Sample:
        """Adds `images`: role -> uint8 [H W 3]; a data set's keys are dropped.

        Raises:
            ValueError: a camera is missing, or its image has another size or type.
        """
        given = sample.get("images")
        shown = sample if given is None else given
        names = {camera.role: camera.key if given is None else camera.role for camera in self.cameras}
        if missing := [f"{role} <- {name}" for role, name in names.items() if name not in shown]:
            raise ValueError(
                f"the sample has no image for {', '.join(missing)}; it has {sorted(shown)}. Rename the camera on one side."
            )
        images = {camera.role: _checked(shown[names[camera.role]], camera) for camera in self.cameras}
        dropped = () if given is not None else names.values()
        return {key: value for key, value in sample.items() if key not in dropped} | {"images": images}


@dataclass(frozen=True)
class Scale:
    """Scaling of each dimension in its own way, between two ends for which -1 and 1 stand.

    forward: `2 (x - low) / (high - low + 1e-8) - 1`, clipped to [-1, 1] but for `mean_std`; x where nothing is scaled.
    inverse: `0.5 (a + 1) (high - low) + low`; a where nothing is scaled.

    quantile: q01 and q99, as OpenVLA does (arXiv 2406.09246, §3.2; openvla-spec, "Normalisation"). A dimension that changes in
    under a hundredth of the frames (q01 == q99, min < max) is scaled by min and max instead: between equal quantiles every value
    would come back as the same number. min_max: the extremes, as OpenVLA-OFT does for ALOHA (arXiv 2502.19645, §5). mean_std: the
    mean less and plus the deviation, so that the result has mean 0 and deviation 1.

    A scaled dimension whose two ends are one becomes 0 and comes back as its constant.
    """

    statistics: ColumnStatistics

    def forward(self, values: Float[np.ndarray, "*N D"]) -> Float32[np.ndarray, "*N D"]:
        """Values in robot units -> [-1, 1] where scaled between quantiles or extremes."""
        least, most = self._limits
        return np.clip(self.unclipped(values), least, most).astype(np.float32)

    def unclipped(self, values: Float[np.ndarray, "*N D"]) -> Float64[np.ndarray, "*N D"]:
        """`forward` before values outside [-1, 1] are clipped."""
        scaled = 2 * (values - self.bounds[0]) / self._span - 1
        return np.where(self._mask, np.where(self._constant, 0.0, scaled), values).astype(np.float64, copy=False)

    def inverse(self, values: Float[np.ndarray, "*N D"]) -> Float32[np.ndarray, "*N D"]:
        """Back to robot units."""
        return self.robot_units(values).astype(np.float32)

    def robot_units(self, values: Float[np.ndarray, "*N D"]) -> Float64[np.ndarray, "*N D"]:
        """`inverse` before it is rounded to float32."""
        low, high = self.bounds
        values = values.astype(np.float64)
        return np.where(self._mask, 0.5 * (values + 1) * (high - low) + low, values)

    @cached_property
    def width(self) -> int:
        """D."""
        return len(self.statistics.normalization)

    @cached_property
    def bounds(self) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]:
        """What -1 and 1 stand for; -1 and 1 themselves where nothing is scaled."""
        return ends(self.statistics)

    @cached_property
    def _span(self) -> Float64[np.ndarray, " D"]:
        return self.bounds[1] - self.bounds[0] + _EPSILON

    @cached_property
    def _constant(self) -> Bool[np.ndarray, " D"]:
        return self.bounds[0] == self.bounds[1]

    @cached_property
    def _mask(self) -> Bool[np.ndarray, " D"]:
        return np.array(self.statistics.mask, dtype=bool)

    @cached_property
    def _limits(self) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]:
        """The least and the largest scaled number; infinite where none is clipped."""
        most = np.where(np.isin(self.statistics.normalization, CLIPPED), 1.0, np.inf)
        return -most, most


@dataclass(frozen=True)
class NormalizeActions:
    """Scales `actions`; an observation, which has none, passes."""

    scale: Scale

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Scaled `actions` [T A]."""
        return sample | {"actions": self.scale.forward(sample["actions"])} if "actions" in sample else sample

    def inverse(self, sample: dict[str, Any]) -> dict[str, Any]:
        """`actions` [T A] in robot units."""
        return sample | {"actions": self.scale.inverse(sample["actions"])}


@dataclass(frozen=True)
class NormalizeState:
    """Adds the scaled `state` [S]; the raw one stays under `key`, where relative actions need it."""

    scale: Scale
    key: str

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Scaled `state`.

        Raises:
            ValueError: the sample has no state, or one of another width.
        """
        width = self.scale.width
        if self.key not in sample:
            raise ValueError(f"the sample has no {self.key!r}, only {sorted(sample)}: give the robot's state under that name.")
        if sample[self.key].shape != (width,):
            raise ValueError(f"{self.key!r} has shape {sample[self.key].shape}, the statistics are for {(width,)}: another robot?")
        return sample | {"state": self.scale.forward(sample[self.key])}


def _checked(image: Any, camera: Camera) -> UInt8[np.ndarray, "H W 3"]:
    expected = (camera.height, camera.width, 3)
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if shape != expected or kind != np.uint8:
        raise ValueError(
            f"camera {camera.role!r} ({camera.key}) gives {kind} {shape}, the contract says uint8 {expected}: "
            "resize at the source, or write the true size in the embodiment."
        )
    return image
