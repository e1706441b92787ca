"""A policy that is told what to do by whoever starts it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from vla_tune.schema import Observation, Policy


@dataclass(frozen=True)
class Instructed:
    """Acts as `policy` does, with this instruction in every observation."""

    policy: Policy
    instruction: str

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in robot units."""
        return self.policy.act([replace(observation, instruction=self.instruction) for observation in observations])

    def reset(self) -> None:
        """A new episode begins."""
        self.policy.reset()
