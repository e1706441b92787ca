"""What the numbers of a data set look like."""

from dataclasses import dataclass

from vla_tune.schema.body import Normalization


@dataclass(frozen=True, kw_only=True)
class ColumnStatistics:
    """Per-dimension statistics of the state or the action, in robot units, over exactly the frames in use."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    normalization: tuple[Normalization, ...]
    """Of each dimension: which of these numbers scale it."""

    @property
    def numbers(self) -> dict[str, tuple[float, ...]]:
        """Each of the statistics by its name."""
        return {name: getattr(self, name) for name in ("mean", "std", "min", "max", "q01", "q99")}

    @property
    def mask(self) -> tuple[bool, ...]:
        """Which dimensions are scaled."""
        return tuple(kind != "none" for kind in self.normalization)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of one dataset, with its size; the same numbers as OpenVLA's `dataset_statistics.json`."""

    dataset: str
    action: ColumnStatistics
    state: ColumnStatistics
    num_transitions: int
    num_trajectories: int
