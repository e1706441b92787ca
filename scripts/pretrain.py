"""Build the tiny base from nothing: visual grounding, then counterfactual demonstrations.

python scripts/pretrain.py
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.folder import command, output_folder
from vla_tune.run.pretrain import pretrain


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="pretrain")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Write the checkpoint and its manifest."""
    pretrain(cfg, output_folder(), resume_command=command())


if __name__ == "__main__":
    main()
