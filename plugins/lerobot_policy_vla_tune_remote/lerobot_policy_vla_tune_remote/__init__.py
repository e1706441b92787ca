"""`--policy.type=vla_tune_remote --policy.url=ws://...` for `lerobot-eval`; `lerobot-rollout` wants a folder, see the configuration."""

from lerobot_policy_vla_tune_remote.configuration_vla_tune_remote import VlaTuneRemoteConfig

__all__ = ["VlaTuneRemoteConfig"]
