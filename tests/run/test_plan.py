"""The planner as a user calls it."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from omegaconf import DictConfig
from torch import nn

from vla_tune.models.base import Outline
from vla_tune.plan import Plan
from vla_tune.run.objects import build
from vla_tune.run.plan import plan_run, planned

CONF = str(Path(__file__).parents[2] / "conf")
KEYS = {"weights", "adapter", "gradients", "optimizer", "activations", "peak"}


@pytest.fixture(autouse=True)
def configurations():
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        yield


def cfg_of(*overrides: str) -> DictConfig:
    return compose("plan", overrides=list(overrides))


def plan_of(*overrides: str) -> Plan:
    cfg = cfg_of(*overrides)
    return planned(cfg, device=build(cfg.gpu))


def run(*overrides: str):
    return plan_run(cfg_of(*overrides), overrides=overrides, compose=partial(compose, "plan"))


def test_the_tiny_default(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    plan = run(f"json={tmp_path}/deep/plan.json")
    record = json.loads((tmp_path / "deep" / "plan.json").read_text())
    assert record["fits"]
    assert record["advice"] == []
    assert record["trainable_parameters"] == plan.trainable == 184_320
    assert record["total_parameters"] == 2_689_088 + 184_320
    assert record["bytes"].keys() > KEYS
    assert record["sequence_length"] == 16 + 1 + 28 + 16 + 1
    assert "It fits" in capsys.readouterr().out


def test_additions_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """As many parameters as a run reports: 225,220 of the action head, 148,224 of FiLM."""
    plan = run("head=regression", "addition=[film,proprioception]", f"json={tmp_path}/plan.json")
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["parameters"]["action_head"] == 225_220
    assert plan.trainable == 184_320 + 225_220 + 148_224 + 38_016
    assert plan.total == 2_689_088 + 184_320 + 225_220 + 148_224
    assert record["uncounted"] == []
    assert plan.load.labels == 0, "no vocabulary is computed"
    assert plan.load.actions == 4
    assert "addition=[film,proprioception]" in capsys.readouterr().out


def test_what_does_not_fit_is_told_what_would(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Every change is planned again as a configuration of its own, and fits."""
    overrides = ("adapter=lora_r32", "gpu=rtx4090", "gpu.memory_gib=0.72")
    plan = run(*overrides, f"json={tmp_path}/plan.json")
    advice = json.loads((tmp_path / "plan.json").read_text())["advice"]
    assert not plan.fits
    assert len(advice) == 3
    slowdowns = [change["slowdown"] for change in advice]
    assert slowdowns == sorted(slowdowns)
    for change in advice:
        replaced = {text.partition("=")[0] for text in change["overrides"]}
        kept = [text for text in overrides if text.partition("=")[0].partition(".")[0] not in replaced]
        again = plan_of(*kept, *change["overrides"])
        assert again.fits
        assert again.bytes_.peak == change["peak"]
    assert " ".join(advice[0]["overrides"]) in capsys.readouterr().out


def test_qlora_fits_a_small_card_one_by_one():
    plan = plan_of("model=openvla_7b", "adapter=qlora_r16", "gpu=rtx3060", "training.steps=9", "training.batch_size=1")
    assert plan.fits
    assert plan.bytes_.peak == pytest.approx(7.7e9, rel=0.05)
    more = plan_of("model=openvla_7b", "adapter=qlora_r16", "gpu=rtx3060", "training.steps=9", "training.batch_size=16")
    assert not more.fits


def test_a_larger_card_where_nothing_else_is_left(tmp_path: Path):
    run(
        "model=openvla_7b",
        "adapter=lora_r16",
        "gpu=rtx3060",
        "training.steps=9",
        "training.batch_size=1",
        "plan.changes=[]",
        f"json={tmp_path}/p.json",
    )
    assert [change["overrides"] for change in json.loads((tmp_path / "p.json").read_text())["advice"]] == [["gpu=l4"]]


def test_one_of_several_gpus():
    one, four = (
        plan_of("model=openvla_7b", "adapter=full", "gpu=h200", "training.steps=9", "training.batch_size=1", *more)
        for more in ((), ("gpus=4", "sharding=fsdp"))
    )
    assert not one.fits
    assert four.fits
    assert four.bytes_.gradients == pytest.approx(one.bytes_.gradients / 4, rel=1e-6)


def test_an_unknown_gpu_is_refused_with_the_known_ones():
    with pytest.raises(MissingConfigException, match="rtx3061") as caught:
        cfg_of("gpu=rtx3061")
    assert "rtx3060" in str(caught.value)


def test_an_unknown_sharding():
    with pytest.raises(ValueError, match="sharding='zero'"):
        plan_of("sharding=zero")


class Silent:
    """A checkpoint that tells nothing about its architecture."""

    def __init__(self, folder: str, **_: object) -> None:
        self.folder = folder


class OfAnotherKind(Silent):
    """One that is no language model, and tells how its loss is computed."""

    def outline(self) -> Outline:
        with torch.device("meta"):
            return Outline(model=nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 4)), loss=_loss)


def _loss(model: nn.Module, rows: int) -> torch.Tensor:
    return model(torch.zeros(rows, 64)).square().mean()


def test_a_model_of_another_kind_is_planned_by_what_it_tells(capsys: pytest.CaptureFixture[str]):
    plan = run(f"model._target_={__name__}.OfAnotherKind", "model.folder=mine", "adapter=full", "~head", "training.batch_size=1000")
    assert plan.total == plan.trainable == 64 * 128 + 128 + 128 * 4 + 4
    assert plan.bytes_.activations == pytest.approx(1000 * (64 * 2 + 128 * 2 + 4 * 2), rel=0.05)  # in an autocast
    assert "It fits" in capsys.readouterr().out


def test_a_checkpoint_that_tells_nothing_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"^Silent cannot be planned: .*\. Give it an outline\(\), which returns Outline.*\.$"):
        run(f"model._target_={__name__}.Silent", "model.folder=mine")
