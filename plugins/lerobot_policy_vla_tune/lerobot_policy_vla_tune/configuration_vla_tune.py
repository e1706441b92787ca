"""What LeRobot reads in an exported folder's `config.json`."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig

from vla_tune.export.lerobot_layout import POLICY_TYPE
from vla_tune.export.lerobot_policy import Deployed


@PreTrainedConfig.register_subclass(POLICY_TYPE)
@dataclass
class VlaTuneConfig(Deployed, PreTrainedConfig):
    """A policy that `scripts/export.py` wrote."""

    rows: int = 1
    """Observations in one forward pass: as many as there are environments."""
