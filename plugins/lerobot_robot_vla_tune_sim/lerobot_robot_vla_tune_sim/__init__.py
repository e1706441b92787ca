"""`--robot.type=vla_tune_sim` for `lerobot-rollout` and LeRobot's other tools (lerobot 0.6.1)."""

from lerobot_robot_vla_tune_sim.config_vla_tune_sim import VlaTuneSimConfig
from lerobot_robot_vla_tune_sim.vla_tune_sim import VlaTuneSim

__all__ = ["VlaTuneSim", "VlaTuneSimConfig"]
