"""Record demonstrations of the scripted expert as a LeRobotDataset.

python scripts/record.py task=lift recording.episodes=50 to=datasets/my_lift
python scripts/record.py recording=counterfactual recording.frames=5000
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.record import record


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="record")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Record, print, write."""
    record(cfg)


if __name__ == "__main__":
    main()
