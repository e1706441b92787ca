"""A merged policy: written only when it acts as the trained one did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vla_tune.adapters import Adapter
from vla_tune.adapters.merging import merged
from vla_tune.adapters.spectrum import truncated
from vla_tune.models.base import Checkpoint
from vla_tune.models.files import new_folder
from vla_tune.policy import Policy
from vla_tune.schema import Contract, Group, Observation


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a merged policy may be from the live one.

    Rounding changes the logits by about as much as bfloat16 arithmetic does, which tips near-ties between neighbouring bins;
    soft targets teach neighbours to be nearly as likely, so such tips say nothing. On a fine-tuned QLoRA policy 99.3 % of the
    values of a right merge lay within two bins of the live ones, and 96 % of those of wrong merges (onto the original 16-bit
    base, or into 4 bits again).
    """

    token_agreement: float = 0.98
    """Smallest share of action values that are the same or neighbours."""
    neighbour: float = 0.016
    """How far neighbours are, of the range of an action: two of 255 bins."""
    mean_error: float = 0.01
    """Largest mean action error of a dimension, as a share of its range."""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """A merged policy against the live one, on the same observations."""

    observations: int
    token_agreement: float
    """Share of the action values that are the same or neighbours: of the same code or one beside it, where there are bins."""
    exact_agreement: float
    """Share of those that are exactly the same; not judged."""
    dimensions: tuple[str, ...]
    """Name and unit of each action dimension."""
    mean_error: tuple[float, ...]
    """Per dimension, robot units."""
    max_error: tuple[float, ...]
    """Per dimension, robot units; not judged, because one tipped near-tie between two far bins is no fault of the merge."""
    allowed_mean_error: tuple[float, ...]
    """Per dimension, robot units."""
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether both numbers are within the tolerance."""
        errors = zip(self.mean_error, self.allowed_mean_error, strict=True)
        return self.token_agreement >= self.tolerance.token_agreement and all(error <= allowed for error, allowed in errors)

    def __str__(self) -> str:
        """The verdict and its numbers."""
        verdict = "merged policy acts as the live one" if self.passed else "merged policy does NOT act as the live one"
        head = (
            f"{verdict}, {self.observations} observations: values the same or neighbours {self.token_agreement:.4f} (at least "
            f"{self.tolerance.token_agreement}), the same {self.exact_agreement:.4f}"
        )
        rows = zip(self.dimensions, self.mean_error, self.allowed_mean_error, self.max_error, strict=True)
        lines = [f"  {name}: mean error {mean:.3g} (at most {limit:.3g}), largest {most:.3g}" for name, mean, limit, most in rows]
        return "\n".join([head, *lines])


class ParityError(Exception):
    """A merged policy that does not act as the live one; nothing was written."""


def parity(
    live: Policy, merged: Policy, observations: Sequence[Observation], *, contract: Contract, tolerance: Tolerance | None = None
) -> ParityReport:
    """Compare what two policies do on `observations`.

    A code stands for one value and decodes to one number, so values are equal exactly where codes are.

    Raises:
        ValueError: there are no observations, or an action is not finite.
    """
    if not observations:
        raise ValueError("no observations: parity is measured on recorded frames; record at least one.")
    chunks = [np.asarray(policy.act(observations), dtype=np.float64) for policy in (live, merged)]
    for name, chunk in zip(("live", "merged"), chunks, strict=True):
        if not np.isfinite(chunk).all():
            raise ValueError(f"the {name} policy gives NaN or infinity: its weights are damaged.")
    error = np.abs(chunks[0] - chunks[1])
    tolerance = tolerance or Tolerance()
    return ParityReport(
        observations=len(observations),
        token_agreement=float((error <= tolerance.neighbour * _ranges(contract)).mean()),
        exact_agreement=float((error == 0).mean()),
        dimensions=_dimensions(contract.embodiment.action),
        mean_error=tuple(error.mean(axis=(0, 1)).tolist()),
        max_error=tuple(error.max(axis=(0, 1)).tolist()),
        allowed_mean_error=tuple((tolerance.mean_error * _ranges(contract)).tolist()),
        tolerance=tolerance,
    )


def merge(
    destination: Path,
    *,
    base: Checkpoint,
    adapter: Adapter,
    adapter_folder: Path,
    contract: Contract,
    check: Callable[[Path], ParityReport],
    dtype: torch.dtype = torch.bfloat16,
    rank: int | None = None,
) -> ParityReport:
    """Merge a trained adapter into a new checkpoint folder, if the result passes `check`.

    Weights pass from the base's files through the change into the new files, one at a time. `check` reads the written folder back,
    so it measures what the robot gets.

    Args:
        destination: Appears whole or not at all.
        base: Whose `weights` are changed: in the format of training, or another one if that is wanted.
        adapter: The method.
        adapter_folder: What it learned.
        contract: Goes with the weights.
        check: Compares the written folder with the trained policy.
        dtype: Of the written weights, bfloat16 or float32.
        rank: Low-rank changes are cut to this one, which keeps most of what was learned or fails the check; None keeps all.

    Raises:
        ParityError: the check failed; nothing is written.
        ValueError: the destination exists, adapter and base do not belong together, or the adapter cannot be merged.
    """
    with new_folder(destination) as temporary:
        changes = adapter.changes(adapter_folder, base_hash=base.content_hash())
        if rank is not None:
            changes = truncated(changes, rank)
        base.write(temporary, merged(base.weights(), changes, dtype=dtype), contract)
        report = check(temporary)
        if not report.passed:
            raise ParityError(f"{report}\nNothing was written to {destination}.")
    return report


def _dimensions(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(f"{group.name}[{index}] ({group.unit})" for group in groups for index in range(group.dimension))


def _ranges(contract: Contract) -> Float[np.ndarray, " A"]:
    """The width of [-1, 1] in robot units; of an unscaled dimension, the range in the data."""
    column = contract.statistics.action
    scaled = np.array(column.q99) - np.array(column.q01)
    return np.where(column.mask, scaled, np.array(column.max) - np.array(column.min))
