"""Several datasets in fixed shares: rehearsing old tasks keeps a policy from forgetting them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Dataset

from vla_tune.data.transforms import Samples


class Mixture(Dataset[dict[str, Any]]):
    """Dataset i makes up `weights[i]` of every stretch of the mixture.

    One epoch has every frame of the first dataset once. The others are drawn evenly over their whole length when their share is
    smaller than they are, and repeated when it is larger. Nothing is random: shuffling is the sampler's.

    Args:
        datasets: Of samples alike.
        weights: Their shares, which sum to 1.

    Raises:
        ValueError: the numbers of datasets and weights differ, a dataset is empty, or the weights are not shares.
    """

    def __init__(self, datasets: Sequence[Samples], weights: Sequence[float]) -> None:
        if len(datasets) != len(weights) or not datasets or not all(len(dataset) for dataset in datasets):
            raise ValueError(f"{len(weights)} weights, datasets of {[len(data) for data in datasets]} frames: one weight for each.")
        if min(weights) <= 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"weights {list(weights)} must be positive and sum to 1, not to {sum(weights)}.")
        self.datasets, self.weights = tuple(datasets), tuple(weights)
        epoch = len(datasets[0]) / weights[0]
        counts = [max(1, round(epoch * weight)) for weight in weights]
        source = np.repeat(np.arange(len(counts)), counts)
        phase = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        row = np.concatenate([_rows(len(dataset), count) for dataset, count in zip(datasets, counts, strict=True)])
        order = np.argsort(phase, kind="stable")
        self._source, self._row = source[order], row[order]

    def __len__(self) -> int:
        """Samples of one epoch."""
        return len(self._row)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample of the dataset whose turn it is."""
        return self.datasets[self._source[index]][int(self._row[index])]

    def origin(self, index: int) -> tuple[int, int]:
        """(dataset, position in it) of a sample."""
        return int(self._source[index]), int(self._row[index])


def _rows(length: int, count: int) -> Int64[np.ndarray, " count"]:
    if count <= length:
        return np.arange(count) * length // count
    return np.arange(count) % length
