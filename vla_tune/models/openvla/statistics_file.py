"""`dataset_statistics.json` and the `norm_stats` of `config.json` <-> `Statistics`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_tune.data.normalize import Scale
from vla_tune.models.files import CONFIG_FILE, read_record
from vla_tune.schema import ColumnStatistics, Statistics

STATISTICS_FILE = "dataset_statistics.json"
_NUMBERS = ("mean", "std", "min", "max", "q01", "q99")


def statistics_keys(folder: Path) -> list[str]:
    """The datasets whose statistics a checkpoint holds: what the original calls `unnorm_key`."""
    return sorted(_records(folder))


def published_statistics(folder: Path, key: str) -> Statistics:
    """The statistics of one dataset of a published checkpoint; `dataset_statistics.json` wins over `config.json`.

    A missing mask means that every dimension is scaled. Where `proprio` is missing, `state` has no dimension. A scaled dimension
    whose quantiles are equal is constant to the original, so its extremes are set to them (`Scale` would use the extremes).

    Raises:
        ValueError: there are no statistics, none under `key`, or they are incomplete.
    """
    records = _records(folder)
    if key not in records:
        known = ", ".join(sorted(records)) or "none at all"
        raise ValueError(
            f"{folder} has no statistics for unnorm_key={key!r}; it has {known}. Choose one of these, or put the "
            f"{STATISTICS_FILE} of the training run beside {CONFIG_FILE}."
        )
    record = records[key]
    if "action" not in record:
        raise ValueError(f"{folder}: the statistics of {key!r} have no 'action', only {sorted(record)}: take those of training.")
    return Statistics(
        dataset=key,
        action=_column(record["action"], f"{folder}: {key}.action"),
        state=_column(record["proprio"], f"{folder}: {key}.proprio") if "proprio" in record else unscaled(0),
        num_transitions=int(record.get("num_transitions", 0)),
        num_trajectories=int(record.get("num_trajectories", 0)),
    )


def statistics_record(statistics: Statistics) -> dict[str, Any]:
    """The published form of `statistics`, under the name of its dataset."""
    return {
        statistics.dataset: {
            "action": _column_record(statistics.action),
            "proprio": _column_record(statistics.state),
            "num_transitions": statistics.num_transitions,
            "num_trajectories": statistics.num_trajectories,
        }
    }


def unscaled(dimension: int) -> ColumnStatistics:
    """Statistics of a column that nobody scales."""
    zeros, ones = (0.0,) * dimension, (1.0,) * dimension
    return ColumnStatistics(mean=zeros, std=ones, min=zeros, max=ones, q01=zeros, q99=ones, normalization=("none",) * dimension)


def _records(folder: Path) -> Mapping[str, Any]:
    if (folder / STATISTICS_FILE).is_file():
        return read_record(folder / STATISTICS_FILE, "the statistics of the training data")
    return read_record(folder / CONFIG_FILE, "the model's configuration").get("norm_stats") or {}


def _column(record: Mapping[str, Any], source: str) -> ColumnStatistics:
    missing = [name for name in _NUMBERS if name not in record]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}: take the statistics of the training run.")
    columns = {name: np.array(record[name], dtype=np.float64) for name in _NUMBERS}
    mask = np.array(record.get("mask", [True] * len(columns["q01"])), dtype=bool)
    lengths = {name: len(column) for name, column in (columns | {"mask": mask}).items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{source} has columns of different lengths: {lengths}. Take the statistics of the training run.")
    constant = mask & (columns["q01"] == columns["q99"])
    columns |= {name: np.where(constant, columns["q01"], columns[name]) for name in ("min", "max")}
    return ColumnStatistics(
        **{name: tuple(column.tolist()) for name, column in columns.items()},
        normalization=tuple("quantile" if on else "none" for on in mask.tolist()),
    )


def _column_record(column: ColumnStatistics) -> dict[str, Any]:
    """With the bounds that `Scale` uses as quantiles: the original knows no others."""
    low, high = Scale(column).bounds
    record: dict[str, Any] = {name: list(getattr(column, name)) for name in _NUMBERS}
    return record | {"q01": low.tolist(), "q99": high.tolist(), "mask": list(column.mask)}
