"""Environments of LIBERO as the YAMLs make them."""

from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from vla_tune.run.objects import build

CONF = Path(__file__).parents[3] / "conf"


def configured(env: str, *more: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("eval", [f"env={env}", "run=nowhere", "task=0", *more])


@pytest.fixture(scope="session")
def option() -> Callable[..., DictConfig]:
    """`env=...` as it is composed."""
    return configured


@pytest.fixture(scope="session")
def made() -> Callable[..., gymnasium.Env]:
    """An environment by the name of its option and its task."""

    def make(env: str, task: str, *more: str) -> gymnasium.Env:
        return build(configured(env, *more).env.make)(task=task)

    return make
