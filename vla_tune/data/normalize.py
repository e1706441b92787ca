"""Robot units <-> [-1, 1], with the statistics of the contract."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from vla_tune.schema import ColumnStatistics

_EPSILON = 1e-8
"""OpenVLA's, against a division by zero (openvla-spec, "Normalisation")."""


@dataclass(frozen=True)
class Scale:
    """Quantile scaling of OpenVLA (arXiv 2406.09246, §3.2; openvla-spec, "Normalisation").

    forward: `clip(2 (x - q01) / (q99 - q01 + 1e-8) - 1, -1, 1)` where the mask is true, else x.
    inverse: `0.5 (a + 1) (q99 - q01) + q01` where the mask is true, else a.

    A scaled dimension that never changes (min == max) becomes 0 and comes back as its constant. One that changes in under a
    hundredth of the frames (q01 == q99, min < max) is scaled by min and max instead: between equal quantiles every value would
    come back as the same number.
    """

    statistics: ColumnStatistics

    def forward(self, values: Float[np.ndarray, "*N D"]) -> Float32[np.ndarray, "*N D"]:
        """Values in robot units -> [-1, 1] where scaled."""
        return np.where(self._mask, np.clip(self.unclipped(values), -1, 1), values).astype(np.float32)

    def unclipped(self, values: Float[np.ndarray, "*N D"]) -> Float64[np.ndarray, "*N D"]:
        """`forward` before values outside [-1, 1] are clipped."""
        low, high = self._bounds
        scaled = 2 * (values - low) / (high - low + _EPSILON) - 1
        return np.where(self._mask, np.where(low == high, 0.0, scaled), values).astype(np.float64)

    def inverse(self, values: Float[np.ndarray, "*N D"]) -> Float32[np.ndarray, "*N D"]:
        """Back to robot units."""
        return self.robot_units(values).astype(np.float32)

    def robot_units(self, values: Float[np.ndarray, "*N D"]) -> Float64[np.ndarray, "*N D"]:
        """`inverse` before it is rounded to float32."""
        low, high = self._bounds
        values = values.astype(np.float64)
        return np.where(self._mask, 0.5 * (values + 1) * (high - low) + low, values)

    @property
    def bounds(self) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]:
        """What -1 and 1 stand for, where scaled."""
        return self._bounds

    @cached_property
    def _mask(self) -> Bool[np.ndarray, " D"]:
        return np.array(self.statistics.mask, dtype=bool)

    @cached_property
    def _bounds(self) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
        column = {name: np.array(getattr(self.statistics, name), dtype=np.float64) for name in ("q01", "q99", "min", "max")}
        sparse = column["q01"] == column["q99"]
        return np.where(sparse, column["min"], column["q01"]), np.where(sparse, column["max"], column["q99"])


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
        width = len(self.scale.statistics.mask)
        if self.key not in sample:
            raise ValueError(f"the sample has no {self.key!r}, only {sorted(sample)}: give the robot's state under that name.")
        if sample[self.key].shape != (width,):
            raise ValueError(f"{self.key!r} has shape {sample[self.key].shape}, the statistics are for {(width,)}: another robot?")
        return sample | {"state": self.scale.forward(sample[self.key])}
