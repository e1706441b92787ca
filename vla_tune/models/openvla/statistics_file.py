"""`dataset_statistics.json` and the `norm_stats` of `config.json` <-> `Statistics`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_tune.data.transforms import Scale
from vla_tune.models.files import CONFIG_FILE, read_record
from vla_tune.schema import ColumnStatistics, Normalization, Statistics, statistics_from_record, to_record

STATISTICS_FILE = "dataset_statistics.json"
_MOST_SETS, _LONGEST_NAME = 200, 100
_NUMBERS = ("mean", "std", "min", "max", "q01", "q99")


def published_statistics(folder: Path, key: str, *, normalization: Normalization = "quantile") -> Statistics:
    """The statistics of one dataset of a published checkpoint; `dataset_statistics.json` wins over `config.json`.

    A missing mask means that every dimension is scaled, as `normalization` says. Where `proprio` is missing, `state` has no
    dimension. A dimension scaled by quantiles that are equal is constant to the original, so its extremes are set to them (`Scale`
    would use the extremes).

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
    state = _column(record["proprio"], f"{folder}: {key}.proprio", normalization) if "proprio" in record else to_record(unscaled(0))
    columns = {"action": _column(record["action"], f"{folder}: {key}.action", normalization), "state": state}
    sizes = {name: record.get(name, 0) for name in ("num_transitions", "num_trajectories")}
    read = statistics_from_record({"dataset": key, **columns, **sizes}, source=f"{folder}: {key}")
    return replace(read, action=_as_the_original(read.action), state=_as_the_original(read.state))


def known_statistics(folder: Path) -> list[str]:
    """The names of the data sets that a published checkpoint has statistics of.

    Raises:
        ValueError: there are hundreds, or one is no name.
    """
    names = sorted(_records(folder))
    if len(names) > _MOST_SETS or not all(name.isprintable() and len(name) <= _LONGEST_NAME for name in names):
        raise ValueError(f"{folder}: its statistics are those of {len(names)} data sets, or bear odd names: download it again.")
    return names


def statistics_record(statistics: Statistics) -> dict[str, Any]:
    """The published form of `statistics`, under the name of its dataset.

    A state scaled by mean and deviation is left out: the original would clip it.
    """
    columns = {"action": _column_record(statistics.action), "proprio": _column_record(statistics.state)}
    if "mean_std" in statistics.state.normalization:
        del columns["proprio"]
    sizes = {"num_transitions": statistics.num_transitions, "num_trajectories": statistics.num_trajectories}
    return {statistics.dataset: columns | sizes}


def unscaled(dimension: int) -> ColumnStatistics:
    """Statistics of a column that nobody scales."""
    zeros, ones = (0.0,) * dimension, (1.0,) * dimension
    return ColumnStatistics(mean=zeros, std=ones, min=zeros, max=ones, q01=zeros, q99=ones, normalization=("none",) * dimension)


def _records(folder: Path) -> Mapping[str, Any]:
    if (folder / STATISTICS_FILE).is_file():
        return read_record(folder / STATISTICS_FILE, "the statistics of the training data")
    records = read_record(folder / CONFIG_FILE, "the model's configuration").get("norm_stats") or {}
    return records if isinstance(records, Mapping) else {}


def _column(record: Mapping[str, Any], source: str, kind: Normalization) -> dict[str, Any]:
    missing = [name for name in _NUMBERS if name not in record]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}: take the statistics of the training run.")
    columns = {name: record[name] for name in _NUMBERS} | {"mask": record.get("mask", [True] * len(record["q01"]))}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{source} has columns of different lengths: {lengths}. Take the statistics of the training run.")
    mask = columns.pop("mask")
    if not all(type(on) is bool for on in mask):
        raise ValueError(f"{source}: its mask is {str(mask)[:80]}, not true or false: take the statistics of the training run.")
    return columns | {"normalization": [kind if on else "none" for on in mask]}


def _as_the_original(column: ColumnStatistics) -> ColumnStatistics:
    low, high = np.array(column.q01), np.array(column.q99)
    constant = (low == high) & (np.array(column.normalization) == "quantile")
    ends = {name: np.where(constant, low, getattr(column, name)) for name in ("min", "max")}
    return replace(column, **{name: tuple(values.tolist()) for name, values in ends.items()})


def _column_record(column: ColumnStatistics) -> dict[str, Any]:
    """With the bounds that `Scale` uses as quantiles: the original knows no others."""
    ends = dict(zip(("q01", "q99"), Scale(column).bounds, strict=True))
    ends = {name: np.where(column.mask, end, getattr(column, name)).tolist() for name, end in ends.items()}
    return {name: list(values) for name, values in column.numbers.items()} | ends | {"mask": list(column.mask)}
