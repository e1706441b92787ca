"""Serve a policy to robots, in openpi's wire format.

python scripts/serve.py policy=runs/tiny-qlora_r16-lift/merged
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.serve import serve


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Load, warm up, serve."""
    serve(cfg)


if __name__ == "__main__":
    main()
