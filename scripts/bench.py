"""Measure how fast it is on this machine.

python scripts/bench.py suite=train
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.bench import bench
from vla_tune.run.errors import one_line_errors


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="bench")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Measure, print, write."""
    bench(cfg)


if __name__ == "__main__":
    main()
