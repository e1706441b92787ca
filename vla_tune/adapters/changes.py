"""What an adapter makes of the weights of its base: tensor by tensor, from its files, without a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Change(Protocol):
    """What becomes of one weight."""

    def __call__(self, weight: Tensor) -> Float[Tensor, "*shape"]:
        """The adapted weight in float32; `weight` is what training multiplied with and stays as it is."""
        ...


type Changes = Mapping[str, Change]
"""Name of a weight in the model -> what becomes of it; what is not named stays."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """W + s B A; with a magnitude m, m (W + s B A) / |W + s B A|, norms over each output (DoRA, arXiv 2402.09353, eq. 5)."""

    up: Float[Tensor, "out rank *ones"]
    """B."""
    down: Float[Tensor, "rank *in"]
    """A."""
    scaling: float
    """s: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised."""
    magnitude: Float[Tensor, " out"] | None = None
    """m."""

    def update(self) -> Float[Tensor, "out *in"]:
        """The change s B A, in the shape of W."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product.mul_(self.scaling).reshape(len(self.up), *self.down.shape[1:])

    def __call__(self, weight: Tensor) -> Float[Tensor, "out *in"]:
        """The adapted weight."""
        changed = self.update().add_(weight)
        if self.magnitude is None:
            return changed
        norms = changed.flatten(1).norm(dim=1)
        return changed.mul_((self.magnitude / norms).reshape(-1, *[1] * (changed.ndim - 1)))


@dataclass(frozen=True, eq=False)
class Learned:
    """A weight that learned itself; what it was does not matter, and it may be new."""

    weight: Tensor

    def __call__(self, weight: Tensor) -> Float[Tensor, "*shape"]:
        """The weight that was learned."""
        return self.weight.float()
