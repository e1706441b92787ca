"""Where the policy is served."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig

from vla_tune.export.lerobot_policy import Deployed


@PreTrainedConfig.register_subclass("vla_tune_remote")
@dataclass
class VlaTuneRemoteConfig(Deployed, PreTrainedConfig):
    """A policy behind `scripts/serve.py`.

    `lerobot-rollout` takes policies from folders only: give it one with a `config.json` of this type, or an exported folder with
    its `type` changed; `url` may stand there or on the command line.
    """

    url: str = "ws://localhost:8000"
    contract: str | None = None
    """A folder with the `contract.json` that the server must act by; None takes what it announces."""
    adapter: str | None = None
    api_key_file: str | None = None
    certificate: str | None = None
    jpeg_quality: int | None = None
    timeout: float = 10.0
    """Seconds for an answer."""
    patience: float = 10.0
    """Seconds of trying to connect."""
