"""A served policy for `lerobot-eval` (`--policy.type=vla_tune_remote --policy.url=ws://...`) and `lerobot-rollout`."""

from lerobot_policy_vla_tune_remote.configuration_vla_tune_remote import VlaTuneRemoteConfig

__all__ = ["VlaTuneRemoteConfig"]
