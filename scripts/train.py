"""Fine-tune a policy on demonstrations and evaluate it.

python scripts/train.py adapter=qlora_r16
python scripts/train.py -m adapter=lora_r16,qlora_r16,full seed=0,1
"""

import hydra
from omegaconf import DictConfig

from vla_tune.run.errors import one_line_errors
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.folder import command, output_folder


@one_line_errors
@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@one_line_errors
def main(cfg: DictConfig) -> float:
    """Return the failure rate on the task, so that sweepers can minimise it."""
    return fine_tune(cfg, output_folder(), resume_command=command())


if __name__ == "__main__":
    main()
