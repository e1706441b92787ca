"""`--policy.path=<exported folder>` for `lerobot-eval` and `lerobot-rollout` (lerobot 0.6.1)."""

from lerobot_policy_vla_tune.configuration_vla_tune import VlaTuneConfig

__all__ = ["VlaTuneConfig"]
