"""The policy in an exported folder."""

from pathlib import Path
from typing import Any

from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_policy_vla_tune.configuration_vla_tune import VlaTuneConfig
from vla_tune.export.lerobot_policy import DeployedPolicy
from vla_tune.run.check import require
from vla_tune.run.objects import load_policy
from vla_tune.run.proof import proof


class VlaTunePolicy(DeployedPolicy, PreTrainedPolicy):
    """Acts as `scripts/eval.py` and `scripts/serve.py` do, for LeRobot's loops.

    Raises:
        ValueError: no folder is named, or nothing in it says that it does what was trained. (Its configuration may be a stranger's,
            so that is not where the user says `unproved`: scripts/serve.py is, and the remote policy asks it.)
        FileNotFoundError: it is not an exported folder.
        CheckFailedError: it does not do what was trained.
    """

    config_class = VlaTuneConfig
    name = "vla_tune"

    def __init__(self, config: VlaTuneConfig, **_: Any) -> None:
        if not config.pretrained_path:
            raise ValueError("no exported folder is named: --policy.path=..., as scripts/export.py wrote it.")
        folder = Path(config.pretrained_path)
        policy = load_policy(folder, rows=config.rows, device=str(config.device)).policy
        require(proof(policy, policy.contract, folder, unproved=False))
        super().__init__(config, policy, policy.contract)
        self.model = policy.model.network
