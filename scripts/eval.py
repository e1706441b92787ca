"""Evaluate a run or a checkpoint in simulation; finished cells are not played again.

python scripts/eval.py run=runs/tiny-qlora_r16-lift
python scripts/eval.py -m run=runs/a,runs/b task=lift,push_left execution=open_loop,receding
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.folder import output_folder


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="eval")
@one_line_errors
def main(cfg: DictConfig) -> float:
    """Return the failure rate."""
    return evaluate_run(cfg, output_folder())


if __name__ == "__main__":
    main()
