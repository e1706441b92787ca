"""What diagnostics found, and what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass

CLIPPED = 0.05
"""Normalisation by the 1 % and 99 % quantiles leaves 2 % outside."""
SATURATED = 0.1
UNUSED = 0.75
COARSE = 0.1
"""Mean round-trip error against the standard deviation."""


@dataclass(frozen=True, kw_only=True)
class DimensionFindings:
    """Of one action dimension; errors in `unit`."""

    name: str
    unit: str
    gripper: bool
    clipped: float
    """Share of the values outside [-1, 1] after normalisation."""
    saturated: float | None
    """Share of the values in an end bin that holds different ones; None where values have no bins."""
    unused: int | None
    """Bins without a value."""
    distinct: int
    """Different values in the data."""
    mean_error: float
    """Of encoding and decoding, clipping included."""
    max_error: float
    relative_error: float
    """Mean error over the standard deviation."""
    collides: bool
    """The engaged and the released gripper have the same codes."""
    lost: int | None
    """Gripper values that do not come back on their side; None where there is no gripper."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of a tokenizer on a dataset; plain JSON data (`dataclasses.asdict`)."""

    chunks: int
    """That were looked at."""
    refused: tuple[int, str] | None
    """Chunks without an encoding, and why the first has none."""
    values: int
    """Of a chunk: T * A."""
    mean_codes: float
    max_codes: int
    num_codes: int
    unused_codes: int
    """That no chunk has."""
    free: bool
    """One code for each value."""
    dimensions: tuple[DimensionFindings, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be changed before training, in words; empty where nothing should."""
        return (*_of_chunks(self), *(warning for each in self.dimensions for warning in _of_dimension(each, self)))


def _of_chunks(found: Findings) -> Iterator[str]:
    if found.refused is not None:
        yield f"{found.refused[0]} of {found.chunks} chunks cannot be encoded; the first: {found.refused[1]}"
    if not found.free and found.mean_codes >= found.values:
        yield (
            f"{found.mean_codes:.1f} codes per chunk for {found.values} values: nothing is compressed. Take tokens=uniform_256, "
            "more codes, or a smaller tokens.scale."
        )
    if not found.free and found.unused_codes > UNUSED * found.num_codes:
        yield (
            f"{found.unused_codes} of {found.num_codes} codes never occur: the tokenizer was fitted to other data, or has more "
            "codes than there are patterns. Fit it to these data (tokens=fast_1024), or take fewer codes."
        )


def _of_dimension(each: DimensionFindings, found: Findings) -> Iterator[str]:
    if each.clipped > CLIPPED:
        yield (
            f"{each.name}: {each.clipped:.1%} of the values lie outside [-1, 1] and are clipped. Are the statistics those of these "
            "data? A group that is not scaled (normalization: none) must lie in [-1, 1] by itself."
        )
    if each.saturated is not None and each.saturated > SATURATED and not each.gripper:
        yield (
            f"{each.name}: {each.saturated:.1%} of the values are in an end bin together with others and come back as one. Widen "
            "the range (statistics of these data), or take tokens=quantile_256."
        )
    if each.unused is not None and each.unused > UNUSED * found.num_codes and each.distinct >= found.num_codes:
        yield (
            f"{each.name}: {found.num_codes - each.unused} of {found.num_codes} bins hold all {each.distinct} different values. "
            "Take tokens=quantile_256, whose bins are narrow where values are dense."
        )
    if each.relative_error > COARSE and not each.gripper:
        yield (
            f"{each.name}: the mean round-trip error is {each.mean_error:.3g} {each.unit}, {each.relative_error:.0%} of the "
            f"standard deviation. {'Take more bins.' if found.free else 'Take a larger tokens.scale, or bins.'}"
        )
    if each.collides:
        yield (
            f"{each.name}: the engaged and the released gripper have the same codes, so the policy cannot tell them apart. Do the "
            "data hold both? Correct the gripper's range in the embodiment, or set normalization: none if it lies in [-1, 1]."
        )
    if each.lost:
        yield (
            f"{each.name}: {each.lost} gripper values come back on the other side or in the middle. "
            f"{'Take tokens=uniform_256.' if found.free else 'Take a larger tokens.scale, or tokens=uniform_256.'}"
        )
