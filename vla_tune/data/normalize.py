"""What -1 and 1 of the model's numbers stand for in robot units, by the statistics of the contract."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64

from vla_tune.schema import ColumnStatistics

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
CLIPPED = ("quantile", "min_max")
"""Ways of scaling by which what lies beyond an end becomes the end."""


def ends(statistics: ColumnStatistics) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, " D"]]:
    """The low and the high end of each dimension; -1 and 1 where nothing is scaled."""
    column = {name: np.array(values, dtype=np.float64) for name, values in statistics.numbers.items()}
    low, high = np.zeros((2, len(statistics.normalization)))
    for kind, found in _ENDS.items():
        here = np.array([each == kind for each in statistics.normalization], dtype=bool)
        for into, end in zip((low, high), found(column), strict=True):
            into[here] = end[here]
    return low, high
