"""A LeRobot robot as a plug-in would bring it: two joints and a gripper that are where they were sent."""

from lerobot_robot_pretend.config_pretend import PretendConfig
from lerobot_robot_pretend.pretend import Pretend

__all__ = ["Pretend", "PretendConfig"]
