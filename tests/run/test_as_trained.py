"""What was trained is tried with as many environments and rows as in its run, where these lived."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from vla_tune.evaluation.environments import in_processes, in_turn
from vla_tune.run.objects import build

PLACES = "vla_tune.evaluation.environments."
Configuration = Callable[..., DictConfig]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """The folder of a run with such a configuration."""

    def made(**config: object) -> str:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return f"run={tmp_path}"

    return made


def numbers(cfg: DictConfig) -> tuple[int, int, int]:
    return cfg.evaluation.episodes, cfg.evaluation.num_envs, cfg.evaluation.rows


def test_an_evaluation_goes_as_the_run_did_unless_another_is_said(run: Callable[..., str], configuration: Configuration):
    words = run(evaluation={"num_envs": 2, "rows": 1, "episodes": 10}, environments={"_target_": PLACES + "in_processes"})
    cfg = configuration("eval", words, "task=0", "env=libero_object")
    assert numbers(cfg) == (50, 2, 1), "each stored start once"
    assert build(cfg.environments) is in_processes
    cfg = configuration("eval", words, "task=0", "env=libero_object", "evaluation.num_envs=3", "environments=in_turn")
    assert numbers(cfg) == (50, 3, 1)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"evaluation": None, "environments": []},
        {"evaluation": {"num_envs": "9", "rows": -1}, "environments": {"_target_": "os.mkdir"}},
    ],
)
def test_what_a_folder_does_not_say_the_environment_does(said, run: Callable[..., str], configuration: Configuration):
    words = [run(**said), "task=0"]
    assert numbers(configuration("eval", *words, "env=libero_object")) == (50, 5, 5)
    cfg = configuration("eval", *words)
    assert numbers(cfg) == (100, 25, 25), "the tabletop's"
    assert build(cfg.environments) is in_turn
    assert numbers(configuration("eval", "run=somebody/published", "task=0")) == (100, 25, 25)
