"""Say whether this machine can train, draw, read videos and drive robots.

python scripts/doctor.py
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.doctor import doctor
from vla_tune.run.errors import one_line_errors


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="doctor")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Probe and print."""
    doctor(cfg)


if __name__ == "__main__":
    main()
