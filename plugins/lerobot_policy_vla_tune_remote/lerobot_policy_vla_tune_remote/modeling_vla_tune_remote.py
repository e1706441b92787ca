"""The policy at an address."""

from typing import Any

from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_policy_vla_tune_remote.configuration_vla_tune_remote import VlaTuneRemoteConfig
from vla_tune.export.lerobot_policy import DeployedPolicy
from vla_tune.serving.client import remote_policy
from vla_tune.serving.protocol import contract_in


class VlaTuneRemotePolicy(DeployedPolicy, PreTrainedPolicy):
    """Asks the server for every chunk.

    Raises:
        ValueError: the server acts by another contract than the one named.
        UnreachableError: there is no server.
    """

    config_class = VlaTuneRemoteConfig
    name = "vla_tune_remote"

    def __init__(self, config: VlaTuneRemoteConfig, **_: Any) -> None:
        remote = remote_policy(
            config.url,
            contract=config.contract,
            adapter=config.adapter,
            api_key_file=config.api_key_file,
            certificate=config.certificate,
            jpeg_quality=config.jpeg_quality,
            timeout=config.timeout,
            patience=config.patience,
        )
        super().__init__(config, remote, remote.contract or contract_in(remote.metadata))
