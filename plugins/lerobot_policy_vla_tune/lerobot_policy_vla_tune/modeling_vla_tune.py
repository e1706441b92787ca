"""The policy in an exported folder."""

from pathlib import Path
from typing import Any

from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_policy_vla_tune.configuration_vla_tune import VlaTuneConfig
from vla_tune.export.lerobot_policy import DeployedPolicy
from vla_tune.run.objects import load_policy


class VlaTunePolicy(DeployedPolicy, PreTrainedPolicy):
    """Acts as `scripts/eval.py` and `scripts/serve.py` do, for LeRobot's loops.

    Raises:
        ValueError: no folder is named.
        FileNotFoundError: it is not an exported folder.
    """

    config_class = VlaTuneConfig
    name = "vla_tune"

    def __init__(self, config: VlaTuneConfig, **_: Any) -> None:
        if not config.pretrained_path:
            raise ValueError("no exported folder is named: --policy.path=..., as scripts/export.py wrote it.")
        policy = load_policy(Path(config.pretrained_path), rows=config.rows, device=str(config.device)).policy
        super().__init__(config, policy, policy.contract)
        self.model = policy.model.network
