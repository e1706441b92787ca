"""Merge a finished run's adapter into its base; writes nothing unless the merged policy acts as the live one.

python scripts/merge.py run=runs/tiny-qlora_r16-lift
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.merge import merge_run


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="merge")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Merge, measure, write."""
    merge_run(cfg)


if __name__ == "__main__":
    main()
