"""What an action tokenizer does to a dataset, before training: clipped and saturated values, unused bins, grippers, errors.

python scripts/tokens.py data=tabletop tokens=uniform_256
python scripts/tokens.py tokens=fast_256 json=tokens.json
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.tokens import examine_tokens


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="tokens")
@one_line_errors
def main(cfg: DictConfig) -> None:
    """Encode, decode, print."""
    examine_tokens(cfg)


if __name__ == "__main__":
    main()
