"""Its configuration."""

from dataclasses import dataclass

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("pretend")
@dataclass
class PretendConfig(RobotConfig):
    limit: float = 10.0
