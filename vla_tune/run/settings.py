"""A training configuration is looked at before its model is loaded."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vla_tune.models.heads import decoding_of
from vla_tune.run.objects import build
from vla_tune.run.recipes import check_complete
from vla_tune.training.settings import check_alone, check_number, check_settings, check_whole

_PRECISIONS = ("bf16", "fp32")
_LOGGERS = ("jsonl", "wandb")
_LARGEST_RATE = 1.0
"""Adam moves every number by about the learning rate in each step: more than 1 destroys any model at once."""


def check_training(cfg: DictConfig) -> None:
    """Types and ranges of what trains: `training`, `validation`, `seed`, `horizon`, `precision`, `optimizer`, `schedule`, `logger`.

    First of all, every key must have a value.

    Raises:
        ValueError: a key has a value that it cannot have; the message names both.
    """
    check_alone()
    check_complete(cfg)
    check_whole("training.steps", cfg.training.steps, least=1)  # others are shares of it
    check_whole("seed", cfg.seed, least=0)
    check_whole("horizon", cfg.horizon, least=1)
    if cfg.precision not in _PRECISIONS:
        raise ValueError(f"precision={cfg.precision!r} must be one of {', '.join(_PRECISIONS)}.")
    check_settings(_plain(cfg.training))
    for name, value in _plain(cfg.validation).items():
        check_whole(f"validation.{name}", value, least=0)
    for name in ("learning_rate", "lr"):
        if name in cfg.optimizer:
            check_number(f"optimizer.{name}", cfg.optimizer[name], most=_LARGEST_RATE)
    if other := sorted(set(cfg.logger) - set(_LOGGERS)):
        raise ValueError(f"logger.{other[0]} is none that a run writes to: choose {' or '.join(_LOGGERS)}.")
    decoding = None if not cfg.get("head") else decoding_of(build(cfg.head))
    if cfg.model.get("attention") == "flash_attention_2" and decoding not in (None, "autoregressive"):
        raise ValueError(
            f"model.attention=flash_attention_2 shows a position only what came before, and decoding={decoding} needs more: "
            "choose model.attention=sdpa, or head=autoregressive."
        )
    build(cfg.schedule)(torch.optim.SGD([torch.zeros(1)], lr=1.0), steps=cfg.training.steps)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}
