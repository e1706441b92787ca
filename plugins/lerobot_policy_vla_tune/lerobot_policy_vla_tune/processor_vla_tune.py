"""LeRobot's pipelines around the policy; they change nothing."""

from vla_tune.export.lerobot_policy import plain_processors as make_vla_tune_pre_post_processors

__all__ = ["make_vla_tune_pre_post_processors"]
