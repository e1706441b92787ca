"""Whether two policies are one function: a merged one against the live one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from vla_tune.data.transforms import Scale
from vla_tune.extents import Extents
from vla_tune.models.capabilities import SpeaksInOrder
from vla_tune.policy import LocalPolicy, Policy
from vla_tune.policy.spoken import Codes, codes_after, spoken_codes
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
    """How far neighbours are, of the range of an action: four of 255 bins; at least two codes, where it is not scaled."""
    mean_error: float = 0.01
    """Largest mean action error of a dimension, as a share of its range; at least one code, where it is not scaled."""
    gain_kept: float = 0.99
    """Smallest share of what training gained in the loss on held-out frames; quantising a merged policy again kept 39 %."""
    loss_noise: float = 0.002
    """A difference in that loss which rounding makes whatever was gained: after a few steps 1 % of the gain is less."""
    tie_drift: float = 0.004
    """Drift (`Losses.drift`), as a share of what training did to the same labels, up to which values that differ are near-ties. Of
    right merges of four robots and heads it was 0.001 to 0.0025, of merges with another scale (10 %), without one layer's adapter,
    in 4 bits again or onto the original base 0.006 to 0.8."""
    tie_agreement: float = 0.9
    """Smallest share of the same or neighbouring values where those that differ are near-ties: which of them tip is a matter of
    rounding. A right merge had 0.97."""
    tie_error: float = 0.05
    """Largest mean action error of a dimension there, as a share of its range."""
    drift: float = 0.006
    """Largest drift, as a share of what training did."""
    drift_noise: float = 0.03
    """Drift that rounding to bfloat16 may make whatever training did; of right merges it was up to 0.014."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Mean loss per label on the same held-out frames: cross-entropy of codes, absolute error of values."""

    base: float
    live: float
    merged: float
    drift: float | None = None
    """Median over the labels of |merged - live|: the mean loss is flat where training ended, this shows every change."""
    effect: float | None = None
    """Median over the labels of |base - live|: what training did."""

    @classmethod
    def of(cls, base: Float[np.ndarray, " N"], live: Float[np.ndarray, " N"], merged: Float[np.ndarray, " N"]) -> "Losses":
        """From the loss of each label."""
        means = {"base": float(base.mean()), "live": float(live.mean()), "merged": float(merged.mean())}
        return cls(**means, drift=float(np.median(np.abs(merged - live))), effect=float(np.median(np.abs(base - live))))

    @property
    def gain_kept(self) -> float | None:
        """Share of what training gained that the merged policy keeps; None where nothing was gained."""
        gained = self.base - self.live
        return (self.base - self.merged) / gained if gained > 0 else None

    def kept(self, tolerance: Tolerance) -> bool:
        """Whether enough of the gain is kept, or no more is lost than rounding may."""
        if not np.isfinite([self.base, self.live, self.merged]).all():
            return False
        gained, lost = self.base - self.live, self.merged - self.live
        enough = gained <= 0 or lost <= max((1 - tolerance.gain_kept) * gained, tolerance.loss_noise)
        return enough and (self.drift is None or self.drift <= self._allowed(tolerance))

    def ties(self, tolerance: Tolerance) -> bool:
        """Whether values that differ can only be near-ties, for the labels' losses are those of the live policy."""
        return self.drift is not None and self.effect is not None and self.drift <= tolerance.tie_drift * self.effect

    def _allowed(self, tolerance: Tolerance) -> float:
        return max(tolerance.drift * (self.effect or 0.0), tolerance.drift_noise)

    def __str__(self) -> str:
        """In one line."""
        kept = "nothing was gained" if self.gain_kept is None else f"{self.gain_kept:.2%} of the gain is kept"
        drift = (
            "" if self.drift is None else f"; a label moved by {self.drift:.2g} (median; training moved it by {self.effect:.2g})"
        )
        return f"held-out loss: base {self.base:.4f}, live {self.live:.4f}, merged {self.merged:.4f}; {kept}{drift}"


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """A merged policy against the live one, on the same observations."""

    observations: int
    token_agreement: float
    """Share of the action values that are the same or neighbours: of the same code or one beside it, where there are bins; share of
    the codes that are the same where they stand for frequencies (FAST)."""
    exact_agreement: float
    """Share of those that are exactly the same; not judged."""
    dimensions: tuple[str, ...]
    """Name and unit of each action dimension; none where codes were compared."""
    mean_error: tuple[float, ...]
    """Per dimension, robot units."""
    max_error: tuple[float, ...]
    """Per dimension, robot units; not judged, because one tipped near-tie between two far bins is no fault of the merge."""
    allowed_mean_error: tuple[float, ...]
    """Per dimension, robot units."""
    tolerance: Tolerance
    losses: Losses | None = None
    """None where there was no held-out frame with actions, or no base to compare with."""

    @property
    def passed(self) -> bool:
        """Whether all numbers are within the tolerance."""
        errors = zip(self.mean_error, self.allowed_mean_error, strict=True)
        return (
            self.token_agreement >= self.allowed_agreement
            and all(error <= allowed for error, allowed in errors)
            and (self.losses is None or self.losses.kept(self.tolerance))
        )

    @property
    def allowed_agreement(self) -> float:
        """Smallest share of the same or neighbouring values."""
        ties = self.losses is not None and self.losses.ties(self.tolerance)
        return min(self.tolerance.token_agreement, self.tolerance.tie_agreement) if ties else self.tolerance.token_agreement

    def __str__(self) -> str:
        """The verdict and its numbers."""
        verdict = "merged policy acts as the live one" if self.passed else "merged policy does NOT act as the live one"
        head = (
            f"{verdict}, {self.observations} observations: values the same or neighbours {self.token_agreement:.4f} (at least "
            f"{self.allowed_agreement}), the same {self.exact_agreement:.4f}"
        )
        rows = zip(self.dimensions, self.mean_error, self.allowed_mean_error, self.max_error, strict=True)
        lines = [f"  {name}: mean error {mean:.3g} (at most {limit:.3g}), largest {most:.3g}" for name, mean, limit, most in rows]
        lines += [] if self.losses is None else [f"  {self.losses} (at least {self.tolerance.gain_kept:.0%})"]
        return "\n".join([head, *lines])


@dataclass(frozen=True, eq=False)
class Witness:
    """What a policy did on some observations, so that its model need not stay in memory."""

    observations: Sequence[Observation]
    chunks: Float[np.ndarray, "N T A"]
    """Robot units."""
    codes: Sequence[Codes] | None
    """What it said, where it says one code after the other."""


def witness(policy: Policy, observations: Sequence[Observation]) -> Witness:
    """What `policy` does on `observations`.

    Raises:
        ValueError: there are no observations, or an action is not finite.
    """
    if not observations:
        raise ValueError("no observations: parity is measured on recorded frames; record at least one.")
    codes = None
    if isinstance(policy, LocalPolicy) and isinstance(policy.model, SpeaksInOrder):
        codes = spoken_codes(policy, observations)
    return Witness(observations, _finite(policy.act(observations), "live"), codes)


def parity(
    live: Policy, merged: Policy, observations: Sequence[Observation], *, contract: Contract, tolerance: Tolerance | None = None
) -> ParityReport:
    """Compare what two policies do on `observations`; see `compared`."""
    return compared(witness(live, observations), merged, contract=contract, tolerance=tolerance)


def compared(
    live: Witness, merged: Policy, *, contract: Contract, tolerance: Tolerance | None = None, losses: Losses | None = None
) -> ParityReport:
    """Compare what `merged` does with what was witnessed of the live policy.

    A code stands for one value and decodes to one number, so values are equal exactly where codes are. Where codes come one after
    the other, one tipped near-tie would change all that follows: each code is then chosen after those of the live policy.

    Raises:
        ValueError: an action is not finite.
    """
    tolerance = tolerance or Tolerance()
    if live.codes is None:
        return _report(live, merged.act(live.observations), contract, tolerance, losses)
    assert isinstance(merged, LocalPolicy), "codes are compared in this process"
    assert isinstance(merged.model, SpeaksInOrder)
    codes = codes_after(merged, live.observations, live.codes)
    if merged.model.free:
        return _report(live, merged.actions_of(codes, live.observations), contract, tolerance, losses)
    same = np.concatenate([own == other for own, other in zip(codes, live.codes, strict=True)])
    shares = {"token_agreement": float(same.mean()), "exact_agreement": float(same.mean())}
    nothing = dict.fromkeys(("dimensions", "mean_error", "max_error", "allowed_mean_error"), ())
    return ParityReport(observations=len(codes), **shares, **nothing, tolerance=tolerance, losses=losses)


def held_out_losses(policy: LocalPolicy, frames: Sequence[dict], *, rows: int = 16) -> Float[np.ndarray, " N"]:
    """The loss of each label of recorded `frames`, as they come from a dataset."""
    samples = [policy.pipeline(frame) for frame in frames]
    parts = [samples[start : start + rows] for start in range(0, len(samples), rows)]
    losses = [loss.per_label.float().cpu() for part in parts for loss in policy.forward.losses(part)]
    return torch.cat([each.flatten() for each in losses]).numpy()


def _report(
    live: Witness, chunks: Float[np.ndarray, "N T A"], contract: Contract, tolerance: Tolerance, losses: Losses | None
) -> ParityReport:
    error = np.abs(live.chunks - _finite(chunks, "merged"))
    return ParityReport(
        observations=len(live.observations),
        token_agreement=float((error <= _limits(contract, tolerance.neighbour, codes=2.0)).mean()),
        exact_agreement=float((error == 0).mean()),
        dimensions=_dimensions(contract.embodiment.action),
        mean_error=tuple(error.mean(axis=(0, 1)).tolist()),
        max_error=tuple(error.max(axis=(0, 1)).tolist()),
        allowed_mean_error=tuple(_limits(contract, _allowed_error(tolerance, losses), codes=1.0).tolist()),
        tolerance=tolerance,
        losses=losses,
    )


def _allowed_error(tolerance: Tolerance, losses: Losses | None) -> float:
    ties = losses is not None and losses.ties(tolerance)
    return max(tolerance.mean_error, tolerance.tie_error) if ties else tolerance.mean_error


def _finite(chunks: Float[np.ndarray, "N T A"], name: str) -> Float[np.ndarray, "N T A"]:
    if not np.isfinite(chunks).all():
        raise ValueError(f"the {name} policy gives NaN or infinity: its weights are damaged.")
    return np.asarray(chunks, dtype=np.float64)


def _dimensions(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(f"{group.name}[{index}] ({group.unit})" for group in groups for index in range(group.dimension))


def _limits(contract: Contract, share: float, *, codes: float) -> Float[np.ndarray, " A"]:
    """A share of what [-1, 1] stands for in robot units; of an unscaled dimension, of its reach, and at least some codes."""
    column, extents = contract.statistics.action, Extents.of(contract)
    low, high = Scale(column).bounds
    return np.where(column.mask, share * (high - low), extents.slack(share, codes=codes))
