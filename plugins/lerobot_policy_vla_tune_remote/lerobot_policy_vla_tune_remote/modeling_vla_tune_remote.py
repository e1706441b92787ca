"""The policy at an address."""

from pathlib import Path
from typing import Any

from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_policy_vla_tune_remote.configuration_vla_tune_remote import VlaTuneRemoteConfig
from vla_tune.export.lerobot_policy import DeployedPolicy
from vla_tune.schema import Contract
from vla_tune.serving.client import RemotePolicy
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
        remote = RemotePolicy(
            config.url,
            contract=Contract.load(Path(config.contract)) if config.contract else None,
            adapter=config.adapter,
            api_key=Path(config.api_key_file).read_text().strip() if config.api_key_file else None,
            certificate=config.certificate,
            timeout=config.timeout,
            patience=config.patience,
        )
        super().__init__(config, remote, remote.contract or contract_in(remote.metadata))
