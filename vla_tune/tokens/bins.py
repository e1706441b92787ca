"""Action values <-> codes by per-dimension binning; uniform and quantile bins differ only in their edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vla_tune.tokens.actions import TrainingActions
from vla_tune.tokens.records import BinTokens

_ATOM = 1e-6
"""Width of the interval of a value that is shared by several quantiles, in normalised units."""


def uniform_edges(num_bins: int) -> Float[np.ndarray, "1 E"]:
    """`num_bins` points from -1 to 1, one row for every dimension (RT-2, arXiv 2307.15818, §3.2).

    OpenVLA calls these points its 256 bins; they bound 255 intervals, and the value 1.0 alone takes the last code.
    """
    return np.linspace(-1.0, 1.0, num_bins)[None]


def quantile_edges(actions: Float[np.ndarray, "N A"], num_bins: int) -> Float[np.ndarray, "A E"]:
    """Edges that put equally many of the normalised `actions` in each interval of a dimension.

    A value that several quantiles share (a gripper's 0 and 1, a joint at its limit) gets a narrow interval of its own: else it
    would be decoded as the middle between itself and the next value.
    """
    if not np.isfinite(actions).all():
        raise ValueError("actions hold NaN or infinity: quantile edges need finite values; run the dataset check first.")
    edges = np.quantile(np.clip(actions, -1.0, 1.0), np.linspace(0.0, 1.0, num_bins), axis=0).T
    edges[:, 0], edges[:, -1] = -1.0, 1.0
    for row in edges:
        ends = np.flatnonzero((row[1:-1] == row[:-2]) & (row[1:-1] < row[2:])) + 1
        row[ends] = np.minimum(row[ends] + _ATOM, (row[ends] + row[ends + 1]) / 2)
    return edges


def uniform_bins(num_bins: int, *, vocabulary_size: int, actions: TrainingActions) -> "BinTokenizer":
    """OpenVLA's tokenizer; `actions` do not matter to it."""
    return BinTokenizer(uniform_edges(num_bins), vocabulary_size)


def quantile_bins(num_bins: int, *, vocabulary_size: int, actions: TrainingActions) -> "BinTokenizer":
    """Finer where the training `actions` are dense; what lies beyond an episode's end does not count."""
    return BinTokenizer(quantile_edges(actions.chunks[actions.counted.all(axis=2)], num_bins), vocabulary_size)


@dataclass(frozen=True, eq=False)
class BinTokenizer:
    """One code per value, counted down from the end of the vocabulary.

    encode: `id = V - digitize(clip(x, -1, 1), edges)`, so x = -1 -> V-1 and x = 1 -> V-E for E edges.
    decode: the centre of the interval, so |decode(encode(x)) - x| is at most half an interval (1/255 for 256 uniform edges).
    RT-2 (arXiv 2307.15818, §3.2); OpenVLA (arXiv 2406.09246, §3.2). The edges are float64: a float32 edge would move values
    that lie on it.
    """

    edges: Float[np.ndarray, "rows E"]
    vocabulary_size: int

    def __post_init__(self) -> None:
        if self.edges.shape[1] < 2 or not (np.diff(self.edges, axis=1) >= 0).all():
            got = str(self.edges.tolist())[:80]
            raise ValueError(f"bin edges are two at least and must not decrease, got {got}: fit them again.")
        if self.vocabulary_size <= self.edges.shape[1]:
            raise ValueError(
                f"a vocabulary of {self.vocabulary_size} ids has no room for {self.edges.shape[1]} action codes beside its text: "
                "use fewer bins or a larger vocabulary."
            )

    @classmethod
    def from_record(cls, record: BinTokens) -> "BinTokenizer":
        """The tokenizer written in a contract.

        Raises:
            ValueError: there are no edges, they decrease, lie beyond the actions, or are not as many in each row.
        """
        many = {len(row) for row in record.edges}
        if len(many) != 1 or any(abs(edge) > 1 for row in record.edges for edge in row):
            raise ValueError(
                f"bin edges in {len(record.edges)} rows of {', '.join(map(str, sorted(many)[:5]))}: all rows have as many, between "
                "-1 and 1; take the contract.json of the training run again."
            )
        return cls(np.array(record.edges, dtype=np.float64), record.vocabulary_size)

    def to_record(self) -> BinTokens:
        """What a contract keeps of it."""
        return BinTokens(
            kind="bins",
            vocabulary_size=self.vocabulary_size,
            edges=tuple(tuple(float(edge) for edge in row) for row in self.edges),
        )

    @property
    def allowed_ids(self) -> Int[np.ndarray, " N"]:
        """V-1 downwards: position i is the code of interval i."""
        return self.vocabulary_size - 1 - np.arange(self.edges.shape[1])

    @property
    def resolution(self) -> float:
        """The mean width of a bin."""
        return 2 / (self.edges.shape[1] - 1)

    @property
    def free(self) -> bool:
        """Yes: one code per value."""
        return True

    def check(self, horizon: int, action_dimension: int) -> None:
        """Refuse actions of other dimensions than those of the edges; one row of them serves any.

        Raises:
            ValueError: both are named.
        """
        if len(self.edges) not in (1, action_dimension):
            raise ValueError(f"the tokenizer has edges for {len(self.edges)} dimensions, the actions have {action_dimension}.")

    def num_codes(self, horizon: int, action_dimension: int) -> int:
        """One code per action value."""
        return horizon * action_dimension

    def encode(self, actions: Float[np.ndarray, "T A"]) -> Int[np.ndarray, " K"]:
        """Ids of the values, time-major.

        Raises:
            ValueError: a value is NaN (the original would silently take it for 1.0).
        """
        if np.isnan(actions).any():
            raise ValueError(
                f"actions hold NaN: {actions.tolist()}. Repair the episode, or leave it out (data.sources.0.exclude=[...])."
            )
        rows = self._rows(actions.shape[1])
        clipped = np.clip(actions.astype(np.float64), -1.0, 1.0)
        bins = np.stack([np.digitize(column, row) for column, row in zip(clipped.T, rows, strict=True)], axis=1)
        return (self.vocabulary_size - bins).reshape(-1)

    def decode(self, codes: Int[np.ndarray, " K"], *, action_dimension: int) -> Float[np.ndarray, "T A"]:
        """Centres of the intervals that the ids name, [T, A] float64.

        Raises:
            ValueError: an id is no action code, the codes do not fill whole actions, or the edges are those of other dimensions.
        """
        outside = ~np.isin(codes, self.allowed_ids)
        if outside.any():
            raise ValueError(f"ids {codes[outside].tolist()} are not action codes ({self.allowed_ids[-1]}..{self.allowed_ids[0]}).")
        if len(codes) % action_dimension:
            raise ValueError(f"{len(codes)} codes do not fill actions of {action_dimension} dimensions.")
        edges = self._rows(action_dimension)
        centres = (edges[:, :-1] + edges[:, 1:]) / 2
        bins = np.clip(self.vocabulary_size - codes - 1, 0, centres.shape[1] - 1).reshape(-1, action_dimension)
        return centres[np.arange(action_dimension), bins]

    def allowed_next(self, codes: Sequence[int], *, horizon: int, action_dimension: int) -> Int[np.ndarray, " n"]:
        """Every code, until the chunk is complete."""
        return self.allowed_ids if len(codes) < self.num_codes(horizon, action_dimension) else self.allowed_ids[:0]

    def target_distributions(self, deviation: float) -> Float[np.ndarray, "N N"]:
        """A Gaussian of `deviation` bins around each code, each row summing to one; deviation 0 is one-hot."""
        index = np.arange(self.edges.shape[1])
        if deviation == 0:
            return np.eye(len(index))
        weights = np.exp(-0.5 * ((index[:, None] - index[None]) / deviation) ** 2)
        return weights / weights.sum(axis=1, keepdims=True)

    def _rows(self, action_dimension: int) -> Float[np.ndarray, "A E"]:
        self.check(1, action_dimension)
        return np.broadcast_to(self.edges, (action_dimension, self.edges.shape[1]))
