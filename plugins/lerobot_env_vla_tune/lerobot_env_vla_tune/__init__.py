"""`--env.type=vla_tune --env.task=lift` for `lerobot-eval` (lerobot 0.6.1)."""

from lerobot_env_vla_tune.tabletop import VlaTuneEnv

__all__ = ["VlaTuneEnv"]
