"""A protocol's name stands for the values of its option; what was changed of them stands behind it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vla_tune.run.protocol import protocol_of

CONF = Path(__file__).parents[2] / "conf"
MINE = f"hydra.searchpath=[file://{Path(__file__).parents[1] / 'translation/outside/conf'}]"
DRAWN = "{_target_: envs.libero.drawing.Fast}"


@contextmanager
def job(*words: str) -> Iterator[DictConfig]:
    """As in a job of `scripts/eval.py`."""
    instance, before = HydraConfig.instance(), HydraConfig.instance().cfg
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("eval", ["run=x", "task=0", *words], return_hydra_config=True)
        instance.set_config(cfg)
        try:
            yield cfg
        finally:
            instance.cfg = before


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["env=libero_object"], "libero"),
        (["env=libero_object", "env.make.horizon=280"], "libero"),
        (["env=libero_object_fast"], "libero_fast"),
        (["env=libero_object", "env.make.horizon=150"], "libero (horizon=150)"),
        (["env=libero_object", "evaluation.max_steps=99"], "libero (max_steps=99)"),
        (
            ["env=libero_10", f"env.make.environment.arguments.drawing={DRAWN}"],
            "libero (environment.arguments.drawing=envs.libero.drawing.Fast)",
        ),
        (["env=libero_goal", "env.make.settle=null"], "libero (settle=None)"),
        (["env=libero_goal", "~env.make.settle.steps"], "libero (~settle.steps)"),
        (["env=libero_object", "env.suite=libero_object_swap"], "libero (suite=libero_object_swap)"),
        (["env=libero", "env.suite=libero_object_swap"], "libero_400"),
        (["env=libero_object", "env.make.horizon=150", "env.protocol=short"], "short"),
        (["env=tabletop"], "tabletop"),
        (["env=tabletop_dimmed", "env.make.gain=[1,1,1]"], "tabletop (gain=[1, 1, 1])"),
        ([MINE, "env=crane"], "crane"),
        ([MINE, "env=crane", "env.make.horizon=9", "env.make.control_hz=5"], "crane (horizon=9, control_hz=5)"),
    ],
)
def test_what_is_changed_stands_behind_the_name(words: list[str], name: str):
    with job(*words) as cfg:
        assert protocol_of(cfg) == name


def test_outside_a_job_the_name_is_what_is_said(configuration: Callable[..., DictConfig]):
    cfg = configuration("eval", "run=x", "env=libero_object", "env.make.horizon=150")
    assert protocol_of(cfg) == "libero"
    assert protocol_of(configuration("eval", "run=x", "evaluation.max_steps=9")) == "tabletop (max_steps=9)"
