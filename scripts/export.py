"""Write the folder that goes to a robot; nothing is written unless every way to the model is the same.

python scripts/export.py run=runs/tiny-qlora_r16-lift
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.export import export_run


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Merge, check, describe."""
    export_run(cfg)


if __name__ == "__main__":
    main()
