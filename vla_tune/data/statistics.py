"""Statistics of exactly the frames in use, cached by content."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vla_tune.data.dataset import Demonstrations
from vla_tune.data.pipeline import relative_step
from vla_tune.schema import (
    ColumnStatistics,
    Embodiment,
    Group,
    Normalization,
    Statistics,
    content_hash,
    statistics_from_record,
    to_record,
)

_log = logging.getLogger(__name__)
_VERSION = 2
"""Of the way statistics are computed: a change makes old caches unused."""


def dataset_statistics(*datasets: Demonstrations, cache: Path | None = None) -> Statistics:
    """Mean, deviation, extremes and 1 % and 99 % quantiles of state and action over the union of the datasets' frames.

    Where the embodiment has relative actions, they are those of every chunk's counted steps, since that is what the model sees.

    Args:
        datasets: With the same embodiment.
        cache: A folder for the result; None for `statistics/` in the first dataset's folder. The file is named by the hash of
            the numbers, the episodes and the embodiment; one that does not read is computed again.

    Raises:
        ValueError: no dataset, or datasets of different embodiments.
    """
    if not datasets or any(dataset.embodiment != datasets[0].embodiment for dataset in datasets):
        names = [dataset.embodiment.name for dataset in datasets]
        raise ValueError(f"statistics need datasets of one embodiment, got {names}: make the embodiment records equal.")
    key = _key(datasets)
    folder = datasets[0].root / "statistics" if cache is None else cache
    path = folder / f"{key}.json"
    if (known := _read(path, key)) is not None:
        return known
    statistics = _compute(datasets)
    _write(path, key, statistics)
    return statistics


def column_statistics(values: Float32[np.ndarray, "N D"], groups: Sequence[Group], *, name: str) -> ColumnStatistics:
    """Statistics of one column; how they scale it follows from the groups.

    Raises:
        ValueError: there is no row, or a value is NaN or infinite.
    """
    if not len(values) or not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(values))[:1].tolist()
        raise ValueError(
            f"{name}: statistics need finite numbers in at least one row; there are {len(values)}, the first bad at {bad}."
        )
    exact = values.astype(np.float64)
    numbers = {
        "mean": exact.mean(axis=0),
        "std": exact.std(axis=0),
        "min": exact.min(axis=0),
        "max": exact.max(axis=0),
        "q01": np.quantile(exact, 0.01, axis=0),
        "q99": np.quantile(exact, 0.99, axis=0),
    }
    kinds: tuple[Normalization, ...] = tuple(group.normalization for group in groups for _ in range(group.dimension))
    return ColumnStatistics(**{key: tuple(column.tolist()) for key, column in numbers.items()}, normalization=kinds)


def _compute(datasets: Sequence[Demonstrations]) -> Statistics:
    body = datasets[0].embodiment
    state = np.concatenate([dataset.frames.state[dataset.rows] for dataset in datasets])
    return Statistics(
        dataset="+".join(dataset.root.name for dataset in datasets),
        action=column_statistics(_actions(datasets, body), body.action, name=body.action_key),
        state=column_statistics(state, body.state, name=body.state_key),
        num_transitions=len(state),
        num_trajectories=sum(len(dataset.episodes) for dataset in datasets),
    )


def _actions(datasets: Sequence[Demonstrations], body: Embodiment) -> Float32[np.ndarray, "N A"]:
    steps = relative_step(body)
    if not steps:
        return np.concatenate([dataset.chunks.values(dataset.frames, dataset.rows) for dataset in datasets])
    relative = []
    for dataset in datasets:
        for row in dataset.rows.tolist():
            actions, mask = dataset.chunks.chunk(dataset.frames, row)
            sample = steps[0]({"actions": actions, body.state_key: dataset.frames.state[row]})
            relative.append(sample["actions"][mask.all(axis=1)])
    return np.concatenate(relative)


def _key(datasets: Sequence[Demonstrations]) -> str:
    digest = hashlib.sha256()
    for dataset in datasets:
        described = {"embodiment": to_record(dataset.embodiment), "episodes": dataset.episodes, "chunks": repr(dataset.chunks)}
        digest.update(content_hash(described | {"name": dataset.root.name, "version": _VERSION}).encode())
        frames, rows = dataset.frames, dataset.rows
        for column in (frames.state, frames.actions, *frames.extra.values()):
            digest.update(np.ascontiguousarray(column[rows]).tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str) -> Statistics | None:
    """The cached statistics, if the file is whole and its own hash is right."""
    try:
        record = json.loads(path.read_text())
        if record["key"] != key or record["hash"] != content_hash(record["statistics"]):
            raise ValueError("its hash is wrong")
        return statistics_from_record(record["statistics"], source=str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("statistics cache %s is damaged (%s): computed again.", path, error)
        return None


def _write(path: Path, key: str, statistics: Statistics) -> None:
    """Atomically; a folder that cannot be written costs the cache, not the statistics."""
    record = to_record(statistics)
    text = json.dumps({"key": key, "hash": content_hash(record), "statistics": record}, indent=1) + "\n"
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        _log.warning("statistics are not cached: %s cannot be written (%s).", path.parent, error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
