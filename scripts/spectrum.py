"""Show what an adapter learned: singular values, effective ranks, norms, and what it shares with another.

python scripts/spectrum.py run=runs/tiny-qlora_r16-lift
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.spectrum import spectrum_of_run


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="spectrum")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Read the adapter's files and the base's weights; no model is built."""
    spectrum_of_run(cfg)


if __name__ == "__main__":
    main()
