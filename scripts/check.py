"""Say why a policy fails, or that it does what was trained.

python scripts/check.py run=runs/tiny-qlora_r16-lift
python scripts/check.py run=runs/tiny-qlora_r16-lift policy=ws://localhost:8000
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.check import check
from vla_tune.run.errors import one_line_errors


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="check")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Probe, print, and exit with 2 if a probe failed."""
    check(cfg)


if __name__ == "__main__":
    main()
