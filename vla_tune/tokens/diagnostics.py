"""What an action tokenizer does to the actions of a dataset, before anything is trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vla_tune.tokens.base import ActionTokenizer
from vla_tune.tokens.findings import DimensionFindings, Findings

_ROUNDING = 1e-6
"""Of normalised values."""
_CLEAR = 0.1
"""Share of a gripper's range from the middle within which a value is on neither side."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One action dimension."""

    name: str
    unit: str
    size: float
    """What one normalised unit is in `unit`; 0 where the dimension never changes."""
    gripper: tuple[float, float] | None
    """What the tokenizer is given for the engaged and the released gripper."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """Chunks of a dataset, normalised."""

    chunks: Float[np.ndarray, "N T A"]
    """As the tokenizer gets them."""
    unclipped: Float[np.ndarray, "N T A"]
    """Before values outside [-1, 1] were clipped."""
    counted: Bool[np.ndarray, "N T A"]
    """False beyond the episode's end."""

    def spread(self, count: int) -> "Examined":
        """`count` of the chunks, evenly spread; all, if there are no more."""
        rows = np.arange(min(count, len(self.chunks))) * len(self.chunks) // min(count, len(self.chunks))
        return Examined(chunks=self.chunks[rows], unclipped=self.unclipped[rows], counted=self.counted[rows])


def diagnose(tokenizer: ActionTokenizer, examined: Examined, dimensions: Sequence[Dimension]) -> Findings:
    """Encode and decode every chunk, and count what is lost.

    Raises:
        ValueError: no chunk at all can be encoded; the message is the tokenizer's.
    """
    encoded, refused = _encoded(tokenizer, examined.chunks)
    kept = [row for row, codes in enumerate(encoded) if codes is not None]
    codes = [codes for codes in encoded if codes is not None]
    shown = Examined(chunks=examined.chunks[kept], unclipped=examined.unclipped[kept], counted=examined.counted[kept])
    decoded = np.stack([tokenizer.decode(row, action_dimension=len(dimensions)) for row in codes])
    bins = np.stack(codes).reshape(decoded.shape) if tokenizer.free else None
    return Findings(
        chunks=len(encoded),
        refused=refused,
        values=decoded[0].size,
        mean_codes=float(np.mean([len(row) for row in codes])),
        max_codes=max(len(row) for row in codes),
        num_codes=len(tokenizer.allowed_ids),
        unused_codes=len(np.setdiff1d(tokenizer.allowed_ids, np.concatenate(codes))),
        free=tokenizer.free,
        dimensions=tuple(
            _dimension(
                dimension,
                tokenizer,
                shown.unclipped[..., column][shown.counted[..., column]],
                decoded[..., column][shown.counted[..., column]],
                None if bins is None else bins[..., column][shown.counted[..., column]],
                collides=_collides(tokenizer, decoded.shape[1:], column, dimension),
            )
            for column, dimension in enumerate(dimensions)
        ),
    )


def _encoded(
    tokenizer: ActionTokenizer, chunks: Float[np.ndarray, "N T A"]
) -> tuple[list[Int[np.ndarray, " K"] | None], tuple[int, str] | None]:
    """The codes of each chunk, None where there are none; and how many have none, with the first reason."""
    results = [_codes(tokenizer, chunk) for chunk in chunks]
    reasons = [reason for _, reason in results if reason is not None]
    if len(reasons) == len(chunks):
        raise reasons[0]
    return [codes for codes, _ in results], (len(reasons), str(reasons[0])) if reasons else None


def _codes(tokenizer: ActionTokenizer, chunk: Float[np.ndarray, "T A"]) -> tuple[Int[np.ndarray, " K"] | None, ValueError | None]:
    try:
        return tokenizer.encode(chunk), None
    except ValueError as error:
        return None, error


def _dimension(
    dimension: Dimension,
    tokenizer: ActionTokenizer,
    values: Float[np.ndarray, " M"],
    decoded: Float[np.ndarray, " M"],
    bins: Int[np.ndarray, " M"] | None,
    *,
    collides: bool,
) -> DimensionFindings:
    """`values` are normalised and unclipped; `bins` are their codes, where each has one of its own."""
    error = np.abs(decoded - values)
    return DimensionFindings(
        name=dimension.name,
        unit=dimension.unit,
        gripper=dimension.gripper is not None,
        clipped=float((np.abs(values) > 1 + _ROUNDING).mean()),
        saturated=None if bins is None else _saturated(values, bins, tokenizer.allowed_ids),
        unused=None if bins is None else len(tokenizer.allowed_ids) - len(np.unique(bins)),
        distinct=len(np.unique(values.astype(np.float32))),
        mean_error=float(error.mean() * dimension.size),
        max_error=float(error.max() * dimension.size),
        relative_error=float(error.mean() / values.std()) if values.std() > _ROUNDING else 0.0,
        collides=collides,
        lost=_lost(dimension, values, decoded),
    )


def _saturated(values: Float[np.ndarray, " M"], bins: Int[np.ndarray, " M"], ids: Int[np.ndarray, " N"]) -> float:
    """Share of the values in end bins that hold different values; a limit that is reached again and again loses nothing.

    The last code of OpenVLA's bins is that of the value 1 alone and decodes as its neighbour: both are the end.
    """
    ends = (np.isin(bins, ids[:1]), np.isin(bins, ids[-2:]))
    return float(sum(end.mean() for end in ends if end.any() and np.ptp(values[end]) > 2 * 2 / len(ids)))


def _collides(tokenizer: ActionTokenizer, shape: tuple[int, ...], column: int, dimension: Dimension) -> bool:
    """Whether an engaged and a released gripper have the same codes, all else being 0."""
    if dimension.gripper is None:
        return False
    chunks = np.zeros((2, *shape))
    chunks[..., column] = np.array(dimension.gripper)[:, None]
    engaged, released = (_codes(tokenizer, chunk)[0] for chunk in chunks)
    return engaged is not None and released is not None and engaged.tolist() == released.tolist()


def _lost(dimension: Dimension, values: Float[np.ndarray, " M"], decoded: Float[np.ndarray, " M"]) -> int | None:
    """Gripper values that do not come back on their side of the middle; those near the middle have none."""
    if dimension.gripper is None:
        return None
    middle, span = sum(dimension.gripper) / 2, abs(dimension.gripper[0] - dimension.gripper[1])
    clear = np.abs(values - middle) > _CLEAR * span
    side = (decoded - middle) * np.sign(values - middle)
    return int((clear & (side <= _CLEAR / 2 * span)).sum())
