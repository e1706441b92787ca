"""Which simulated robot."""

from dataclasses import dataclass

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("vla_tune_sim")
@dataclass
class VlaTuneSimConfig(RobotConfig):
    """The tabletop with one task."""

    contract: str = ""
    """A folder with the `contract.json` of the policy, which says what the robot's numbers mean."""
    task: str = "lift"
    seed: int = 1
