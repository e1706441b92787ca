"""Combine the adapters of several runs over one base into one checkpoint; writes nothing unless it acts as the exact sum does.

python scripts/combine.py 'runs=[runs/one,runs/two]' to=runs/both combination=ties
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.combine import combine_runs
from vla_tune.run.errors import one_line_errors


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="combine")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Combine, measure, write."""
    combine_runs(cfg)


if __name__ == "__main__":
    main()
