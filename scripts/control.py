"""Let a policy drive a robot, inside its limits.

python scripts/control.py robot=sim policy=ws://localhost:8000
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.control import control
from vla_tune.run.errors import one_line_errors


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="control")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Connect, run, come to rest."""
    control(cfg)


if __name__ == "__main__":
    main()
