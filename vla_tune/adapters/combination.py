"""Several adapters of one base in one change: weight by weight, from their files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vla_tune.adapters.changes import Change, Changes, Learned, LowRank


@runtime_checkable
class Combination(Protocol):
    """Makes one update of several."""

    def __call__(self, name: str, updates: Float[Tensor, "N ..."]) -> Float[Tensor, "*shape"]:
        """The update of the weight `name`; `updates` bear their factors already, and one that leaves it alone is zero."""
        ...


@dataclass(frozen=True)
class Linear:
    """The sum (task arithmetic, arXiv 2212.04089, §2)."""

    def __call__(self, name: str, updates: Float[Tensor, "N ..."]) -> Float[Tensor, "*shape"]:
        """The sum."""
        del name
        return updates.sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class Ties:
    """Trim, elect sign, mean of those that agree (TIES, arXiv 2306.01708, algorithm 1).

    Raises:
        ValueError: the density is not in (0, 1].
    """

    density: int | float
    """The share of each update's values that is kept: the largest."""

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density}: the share of values that is kept lies in (0, 1], e.g. 0.2.")

    def __call__(self, name: str, updates: Float[Tensor, "N ..."]) -> Float[Tensor, "*shape"]:
        """Where all kept values agree, their mean; where they do not, that of the side with the larger sum."""
        del name
        trimmed = torch.stack([self._trimmed(update) for update in updates])
        agree = (trimmed.sign() == trimmed.sum(dim=0).sign()) & (trimmed != 0)
        return trimmed.where(agree, 0.0).sum(dim=0) / agree.sum(dim=0).clamp(min=1)

    def _trimmed(self, update: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        kept = max(1, round(self.density * update.numel()))
        smallest = update.abs().flatten().kthvalue(update.numel() - kept + 1).values
        return update.where(update.abs() >= smallest, 0.0)


@dataclass(frozen=True, kw_only=True)
class Dare:
    """Drop values at random, scale the rest up, and add (DARE, arXiv 2311.03099, §3.1).

    What is dropped depends on the seed, on the weight's name and on the adapter's number alone, not on what was drawn before.

    Raises:
        ValueError: the dropped share is not in [0, 1).
    """

    drop: int | float
    """p, the share of each update's values that is dropped; the rest is divided by 1 - p."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop={self.drop}: the share of values that is dropped lies in [0, 1), e.g. 0.9.")

    def __call__(self, name: str, updates: Float[Tensor, "N ..."]) -> Float[Tensor, "*shape"]:
        """The sum of what is left of each."""
        return torch.stack([self._thinned(f"{self.seed} {number} {name}", each) for number, each in enumerate(updates)]).sum(dim=0)

    def _thinned(self, key: str, update: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
        kept = torch.rand(update.shape, generator=torch.Generator().manual_seed(seed)) >= self.drop
        return update.where(kept, 0.0) / (1 - self.drop)


@dataclass(frozen=True, eq=False)
class Combined:
    """W + the combination of what several changes add to W."""

    name: str
    changes: Sequence[Change | None]
    factors: Sequence[float]
    combination: Combination

    def __call__(self, weight: Tensor) -> Float[Tensor, "*shape"]:
        """The changed weight."""
        plain = weight.float()
        pairs = zip(self.changes, self.factors, strict=True)
        updates = torch.stack(
            [torch.zeros_like(plain) if each is None else factor * _update(each, plain) for each, factor in pairs]
        )
        return plain + self.combination(self.name, updates)


def combined(changes: Sequence[Changes], factors: Sequence[float], combination: Combination) -> Changes:
    """One change of the base for each weight that one of `changes` names.

    Args:
        changes: Of the same base.
        factors: What each update is multiplied with before it is combined.
        combination: How.

    Raises:
        ValueError: there are fewer than two, not as many factors, or a weight learned in full, which is no change of the base's.
    """
    if len(changes) < 2 or len(changes) != len(factors):
        raise ValueError(f"{len(changes)} adapters and factors={list(factors)}: at least two adapters, and a factor for each.")
    names = dict.fromkeys(name for each in changes for name in each)
    made: Mapping[str, Change] = {
        name: Combined(name, [each.get(name) for each in changes], factors, combination) for name in names
    }
    full = [name for name in names if any(isinstance(each.get(name), Learned) for each in changes)]
    if full:
        raise ValueError(
            f"{full[0]} learned in full: it replaces the base's, and replacements cannot be combined. Leave this run out."
        )
    return made


def _update(change: Change, weight: Tensor) -> Tensor:
    if isinstance(change, LowRank) and change.magnitude is None:
        return change.update()  # exactly, without a rounding against W
    return change(weight) - weight
