"""`scripts/bench.py`: suites from their YAML files, and the report."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from vla_tune.bench.data_suite import DataSuite
from vla_tune.bench.measure import Together
from vla_tune.bench.rollout_suite import RolloutSuite
from vla_tune.bench.train_suite import TrainSuite
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.run.bench import bench
from vla_tune.run.errors import one_line_errors
from vla_tune.run.objects import build

CONF = Path(__file__).parents[2] / "conf"

KINDS = {"data": DataSuite, "train": TrainSuite, "rollout": RolloutSuite}


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("bench", overrides=list(overrides))


@pytest.fixture
def base(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    folder = tmp_path / "base"
    save_checkpoint(folder, tiny_model, tiny_tokenizer, tiny_contract)
    return folder


def test_every_suite_is_built_with_the_root_s_choices():
    choices = ["checkpoint=somewhere", "repetitions=3", "device=cpu"]
    together = build(configuration("suite=all", *choices).suite)
    assert isinstance(together, Together)
    assert {name: type(suite) for name, suite in together.suites.items()} == KINDS
    for name, kind in KINDS.items():
        suite = build(configuration(f"suite={name}", *choices).suite)
        assert isinstance(suite, kind)
        assert suite.repetitions == 3


def test_the_adapters_are_those_of_training_compared_with_full_fine_tuning():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        trained = {name: compose("train", overrides=[f"adapter={name}"]) for name in ("full", "lora_r16", "qlora_r16")}
    adapters = build(configuration("suite=train", "device=cpu", "checkpoint=somewhere").suite).adapters
    assert list(adapters) == list(trained)
    assert adapters == {name: build(cfg.adapter) for name, cfg in trained.items()}


def test_rows_are_printed_and_written_with_the_machine(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]):
    quick = ["suite.steps=5", "suite.episodes=1", "suite.num_envs=1", "suite.policy.rows=1", "repetitions=1"]
    paths = [tmp_path / "a" / "rollout.json", tmp_path / "b.json"]
    threads = f"threads={torch.get_num_threads()}"
    rows = bench(configuration("suite=rollout", *quick, threads, f"checkpoint={base}", f"to={paths[0]}", f"json={paths[1]}"))
    reports = [json.loads(path.read_text()) for path in paths]
    assert reports[0] == reports[1]
    assert reports[0]["rows"] == rows
    assert reports[0]["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    printed = capsys.readouterr().out
    assert all(row["work"] in printed for row in rows)
    assert reports[0]["machine"]["cpu"] in " ".join(printed.split())


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cfg = configuration("suite=train", f"checkpoint={tmp_path}", f"to={tmp_path / 'train.json'}")
    with pytest.raises(SystemExit, match="2"):
        one_line_errors(bench)(cfg)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/contract.json is missing")
    assert list(tmp_path.iterdir()) == []
