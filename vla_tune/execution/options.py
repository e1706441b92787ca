"""Ways to execute chunks: when to look again, and what becomes of the old chunk."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from vla_tune.execution.timeline import Averaged, Blended, Timeline, check_mean, check_steps, two_ended
from vla_tune.schema import Contract, Embodiment


@runtime_checkable
class Execution(Protocol):
    """A way to execute chunks, however late they come."""

    def timeline(self, embodiment: Embodiment) -> Timeline:
        """An empty one; `embodiment` says what its dimensions mean."""
        ...


@runtime_checkable
class FollowsContract[T](Protocol):
    """A choice that a policy's contract makes, or has a say in."""

    def under(self, contract: Contract) -> T:
        """What is chosen."""
        ...


def under_contract[T](choice: T | FollowsContract[T], contract: Contract) -> T:
    """What a user chose; where they left it to the contract, what it says.

    Raises:
        ValueError: a policy of this contract cannot be executed so.
    """
    return choice.under(contract) if isinstance(choice, FollowsContract) else choice  # pyright: ignore[reportReturnType] (a T too)


@dataclass(frozen=True)
class OpenLoop:
    """Plays whole chunks; looks again just early enough.

    Args:
        blend: Ticks over which an old chunk gives way to a new one, linearly; where no chunk is late, none is left to do so.
    """

    blend: int = 0

    def timeline(self, embodiment: Embodiment) -> Timeline:
        """Of one chunk after the other."""
        return Blended(embodiment, blend=self.blend, steps=None)


@dataclass(frozen=True)
class RecedingHorizon:
    """Looks again after `steps` ticks of play, and drops what is left of the old chunk when the new one is there.

    Short reacts sooner, long is smoother and cheaper. OpenVLA-OFT (arXiv 2502.19645, §4) plays all 8 of 8.

    Args:
        steps: From one observation to the next.
        blend: Ticks over which an old chunk gives way to a new one, linearly.
    """

    steps: int
    blend: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least 1 action of a chunk must be played; choose 1 to the horizon T.")

    def under(self, contract: Contract) -> "RecedingHorizon":
        """The same.

        Raises:
            ValueError: `steps` is more than the policy predicts.
        """
        check_steps(self.steps, contract.horizon)
        return self

    def timeline(self, embodiment: Embodiment) -> Timeline:
        """Of one chunk after the other; its `add` raises ValueError for a chunk shorter than `steps`."""
        return Blended(embodiment, blend=self.blend, steps=self.steps)


@dataclass(frozen=True)
class AsTrained:
    """Plays as many actions of a chunk as the contract's `execute_steps` says, then looks again.

    Args:
        blend: Ticks over which an old chunk gives way to a new one, linearly.
    """

    blend: int = 0

    def under(self, contract: Contract) -> OpenLoop | RecedingHorizon:
        """Whole chunks, or the first steps of each."""
        whole = contract.execute_steps == contract.horizon
        return OpenLoop(self.blend) if whole else RecedingHorizon(contract.execute_steps, self.blend)


@dataclass(frozen=True)
class TemporalEnsemble:
    """Looks again whenever the policy is free, and averages all that was predicted for a tick (ACT, arXiv 2304.13705, Algorithm 2).

    action = sum_i w_i a_i / sum_i w_i with w_i = exp(-decay * i), where i = 0 is the oldest prediction: a small decay lets new
    observations in sooner. Dimensions with two ends (a gripper, suction) keep the newest prediction, for a mean of open and
    closed is neither.
    """

    decay: float = 0.01

    def __post_init__(self) -> None:
        if not (np.isfinite(self.decay) and self.decay >= 0):
            raise ValueError(f"decay={self.decay}: must be finite and at least 0 (0 weighs all alike; ACT takes 0.01).")

    def timeline(self, embodiment: Embodiment) -> Timeline:
        """Of all chunks that reach this tick.

        Raises:
            ValueError: the embodiment has rotations whose mean is no rotation in between.
        """
        check_mean(embodiment, instead="choose RecedingHorizon or OpenLoop")
        return Averaged(self.decay, two_ended(embodiment))
