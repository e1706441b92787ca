"""Fit a FAST action tokenizer to a dataset, and write it to a file.

python scripts/tokenizer.py data=tabletop tokens=fast_1024 to=tokenizer.json
python scripts/train.py head=autoregressive tokens=fast_file tokens.file=tokenizer.json
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.tokens import fit_tokenizer


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="tokenizer")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Fit, measure, write."""
    fit_tokenizer(cfg)


if __name__ == "__main__":
    main()
