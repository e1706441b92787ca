"""Which run is better, by how much, and can that be told: paired on the starts that all were evaluated on.

python scripts/compare.py 'runs=[runs/one/merged,runs/one]' margin=0.03
python scripts/compare.py 'runs=[runs/*lora_r4*,runs/*lora_r16*]' 'names=[r4,r16]'   # one run for each training seed
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.compare import compare_runs
from vla_tune.run.errors import one_line_errors


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Pair, compare, write."""
    compare_runs(cfg)


if __name__ == "__main__":
    main()
