"""What acts: the one protocol between what a robot sees and the actions that it is sent."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vla_tune.schema.body import Observation


@runtime_checkable
class Policy(Protocol):
    """Acts on what a robot sees; local, recorded and remote policies are alike."""

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in robot units."""
        ...

    def reset(self) -> None:
        """Forget the past: a new episode begins."""
        ...


@runtime_checkable
class WatchedPolicy(Policy, Protocol):
    """A policy that can say how sure it is to act at all."""

    def outside_mass(self, observations: Sequence[Observation]) -> Float[np.ndarray, " N"] | None:
        """Probability of ids that are no action code; None where there are no codes."""
        ...
