"""Robot units <-> the model's numbers, with the statistics of the contract."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from vla_tune.schema import ColumnStatistics

_EPSILON = 1e-8
"""OpenVLA's, against a division by zero (openvla-spec, "Normalisation")."""


type _Columns = Mapping[str, Float64[np.ndarray, " D"]]
type _Ends = tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]


def _quantiles(column: _Columns) -> _Ends:
    sparse = column["q01"] == column["q99"]
    return np.where(sparse, column["min"], column["q01"]), np.where(sparse, column["max"], column["q99"])


def _extremes(column: _Columns) -> _Ends:
    return column["min"], column["max"]


def _deviations(column: _Columns) -> _Ends:
    return column["mean"] - column["std"], column["mean"] + column["std"]


def _unscaled(column: _Columns) -> _Ends:
    ones = np.ones_like(column["min"])
    return -ones, ones


_ENDS: Mapping[str, Callable[[_Columns], _Ends]] = {
    "quantile": _quantiles,
    "min_max": _extremes,
    "mean_std": _deviations,
    "none": _unscaled,
}
"""What -1 and 1 stand for, for each way of scaling."""
_CLIPPED = ("quantile", "min_max")


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
        scaled = self.unclipped(values)
        return np.where(self._clipped, np.clip(scaled, -1, 1), scaled).astype(np.float32)

    def unclipped(self, values: Float[np.ndarray, "*N D"]) -> Float64[np.ndarray, "*N D"]:
        """`forward` before values outside [-1, 1] are clipped."""
        low, high = self.bounds
        scaled = 2 * (values - low) / (high - low + _EPSILON) - 1
        return np.where(self._mask, np.where(low == high, 0.0, scaled), values).astype(np.float64)

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
        column = {name: np.array(values, dtype=np.float64) for name, values in self.statistics.numbers.items()}
        low, high = np.zeros((2, self.width))
        for kind, ends in _ENDS.items():
            here = np.array([each == kind for each in self.statistics.normalization], dtype=bool)
            for into, end in zip((low, high), ends(column), strict=True):
                into[here] = end[here]
        return low, high

    @cached_property
    def _mask(self) -> Bool[np.ndarray, " D"]:
        return np.array(self.statistics.mask, dtype=bool)

    @cached_property
    def _clipped(self) -> Bool[np.ndarray, " D"]:
        return np.isin(self.statistics.normalization, _CLIPPED)


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
