"""A merged policy: written only when it acts as the trained one did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from vla_tune.adapters import Adapter
from vla_tune.models.openvla.load import content_hash, load, new_folder, write_checkpoint
from vla_tune.policy import Policy
from vla_tune.schema import Contract, Group, Observation


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a merged policy may be from the live one.

    Rounding the merged weights to bfloat16 tips near-ties between bins, as bfloat16 arithmetic itself does: the same live adapter
    with and without autocast agreed with itself on 0.85 to 0.94 of the codes of a tiny policy trained on noisy targets
    (deviation of 6 bins, adapter of 0.4 times the base's norm). Right merges of it agreed on 0.91 to 0.95, with mean errors up to
    0.002 of the range; its QLoRA adapter merged into the base before quantisation, or into 4 bits again, agreed on 0.85.
    The limit on the error is wider, because one tipped decision of a gripper is an error of the whole range.
    """

    token_agreement: float = 0.875
    """Smallest share of action values decoded from the same code."""
    mean_error: float = 0.01
    """Largest mean action error of a dimension, as a share of the range of its actions; one of 255 bins is 0.004."""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """A merged policy against the live one, on the same observations."""

    observations: int
    token_agreement: float
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
        head = f"{verdict}, {self.observations} observations: token agreement {self.token_agreement:.4f} (at least "
        rows = zip(self.dimensions, self.mean_error, self.allowed_mean_error, self.max_error, strict=True)
        lines = [f"  {name}: mean error {mean:.3g} (at most {limit:.3g}), largest {most:.3g}" for name, mean, limit, most in rows]
        return "\n".join([f"{head}{self.tolerance.token_agreement})", *lines])


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
        token_agreement=float((error == 0).mean()),
        dimensions=_dimensions(contract.embodiment.action),
        mean_error=tuple(error.mean(axis=(0, 1)).tolist()),
        max_error=tuple(error.max(axis=(0, 1)).tolist()),
        allowed_mean_error=tuple((tolerance.mean_error * _ranges(contract)).tolist()),
        tolerance=tolerance,
    )


def merge(
    destination: Path,
    *,
    base_folder: Path,
    adapter: Adapter,
    adapter_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    contract: Contract,
    check: Callable[[Path], ParityReport],
    dtype: torch.dtype = torch.bfloat16,
) -> ParityReport:
    """Merge a trained adapter into a new checkpoint folder, if the result passes `check`.

    The base is loaded afresh in the format of training. `check` reads the written folder back, so it measures what the robot gets.

    Raises:
        ParityError: the check failed; nothing is written.
        ValueError: the destination exists, or adapter and base do not belong together.
    """
    with new_folder(destination) as temporary:
        base_hash = content_hash(base_folder)
        model = load(base_folder, base=adapter.base)
        adapter.attach(model)
        adapter.load(adapter_folder, model, base_hash=base_hash)
        tensors = adapter.merge(model, dtype=dtype)
        write_checkpoint(temporary, tensors, config=model.config, tokenizer=tokenizer, contract=contract)
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
