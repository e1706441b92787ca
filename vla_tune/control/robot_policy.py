"""A policy as a robot has it: told what to do by whoever starts it, in the units of the robot's driver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from vla_tune.schema import Contract, Conversion, Observation, Policy, conversion, in_units


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


@dataclass(frozen=True, eq=False)
class InRobotUnits:
    """Acts as `policy` does; observations come, and actions go, in the units of the robot."""

    policy: Policy
    there: Conversion
    """From the robot's units to the policy's."""

    def act(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N T A"]:
        """The next T actions for each observation, in the robot's units."""
        return self.there.actions_there(self.policy.act([replace(one, state=self.there.states(one.state)) for one in observations]))

    def reset(self) -> None:
        """A new episode begins."""
        self.policy.reset()


def in_robot_units(policy: Policy, contract: Contract, units: Mapping[str, str]) -> tuple[Policy, Contract, str]:
    """The policy and its contract as a robot with `units` means them, and what is converted, in words.

    Set-points, limits and logs are then the robot's. Where nothing differs, both are as they were and there is nothing to say.

    Raises:
        ValueError: a name is no group's of the contract, or no factor leads from a unit to the other.
    """
    there = conversion(contract.embodiment, units, source="robot.units")
    if not there.said:
        return policy, contract, ""
    return InRobotUnits(policy, there), in_units(contract, units, there), there.said
