"""What an adapter learned: the singular values of its changes, how many matter, and what two adapters share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vla_tune.adapters.changes import Change, Changes, LowRank


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The change dW of one weight W, a kernel read as a matrix [out, in]."""

    left: Float[Tensor, "out n"]
    values: Float[Tensor, " n"]
    """Singular values of dW, the largest first."""
    right: Float[Tensor, "n in"]
    relative_norm: float
    """|dW| / |W|, Frobenius."""

    @property
    def effective_rank(self) -> float:
        """Exp of the entropy of the singular values' shares (Roy and Vetterli, EUSIPCO 2007, §2); 0 of no change."""
        shares = self.values / self.values.sum()
        return float(torch.special.entr(shares).sum().exp()) if self.values.any() else 0.0


def spectrum(change: Change, weight: Tensor) -> Spectrum:
    """Of what `change` makes of `weight`; of a plain low-rank change from its factors, else from the whole matrix."""
    if isinstance(change, LowRank) and change.magnitude is None:
        left, values, right = _of_factors(change)
    else:
        difference = change(weight) - weight.float()
        left, values, right = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    norm = weight.float().norm()
    return Spectrum(left, values, right, float(values.norm() / norm) if norm > 0 else float("inf"))


def spectra(changes: Changes, weights: Mapping[str, Tensor]) -> dict[str, Spectrum]:
    """Of every matrix that changes; vectors and weights that are new to the base have none."""
    matrices = {name: change for name, change in changes.items() if name in weights and weights[name].ndim > 1}
    return {name: spectrum(change, weights[name]) for name, change in matrices.items()}


def kept(found: Sequence[Spectrum], rank: int) -> float:
    """Share of the squared norms of all changes that their best approximations of this rank keep (Eckart and Young, 1936)."""
    total = sum(float(one.values.square().sum()) for one in found)
    return sum(float(one.values[:rank].square().sum()) for one in found) / total if total else 1.0


def rank_that_keeps(found: Sequence[Spectrum], share: float) -> int:
    """The smallest rank that keeps at least `share`."""
    most = max((len(one.values) for one in found), default=0)
    return next((rank for rank in range(most) if kept(found, rank) >= share), most)


def overlap(one: Spectrum, other: Spectrum, i: int, j: int) -> float:
    """How much of the first i input directions of one change lies in the first j of another: 0, nothing, to 1, all.

    |V_i^T V_j|^2 / min(i, j) over right singular vectors (LoRA, arXiv 2106.09685, §7.2, eq. 4).
    """
    shared = one.right[:i] @ other.right[:j].mT
    return float(shared.square().sum() / min(*shared.shape))


@dataclass(frozen=True, eq=False)
class Truncated:
    """W + the best approximation of dW of a rank (a `Change`)."""

    change: Change
    rank: int

    def __call__(self, weight: Tensor) -> Float[Tensor, "*shape"]:
        """The adapted weight."""
        found = spectrum(self.change, weight)
        low = (found.left[:, : self.rank] * found.values[: self.rank]) @ found.right[: self.rank]
        return weight.float() + low.reshape(weight.shape)


def truncated(changes: Changes, rank: int) -> Changes:
    """Low-rank changes at a lower rank; what learned in full stays as it is.

    Raises:
        ValueError: the rank is not positive, or no change is of a rank above it.
    """
    low = {name: change for name, change in changes.items() if isinstance(change, LowRank)}
    most = max((change.up.shape[1] for change in low.values()), default=0)
    if not 1 <= rank < most:
        raise ValueError(f"rank={rank}: the adapter's changes are of rank {most}; choose one below, or leave it out.")
    return {**changes, **{name: Truncated(change, rank) for name, change in low.items() if change.up.shape[1] > rank}}


def _of_factors(change: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of s B A by way of two QR decompositions, without the product."""
    outer, upper = torch.linalg.qr(change.up.float().flatten(1))
    inner, lower = torch.linalg.qr(change.down.float().flatten(1).mT)
    left, values, right = torch.linalg.svd(change.scaling * upper @ lower.mT, full_matrices=False)
    return outer @ left, values, right @ inner.mT
