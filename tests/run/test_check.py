"""`scripts/check.py`, and the probes that run by themselves after training and before serving."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from vla_tune.check.agreement import agreement
from vla_tune.check.finding import CheckFailedError, Finding
from vla_tune.check.kept import KEPT_FILE, Kept
from vla_tune.check.replay import replay
from vla_tune.data.sources import Data
from vla_tune.run.check import CHECK_FILE, _environment, _played, check, probed_run, recorded_in
from vla_tune.run.objects import build, load_base, load_policy
from vla_tune.run.serve import _policies, serve
from vla_tune.run.stored import environment_of

LEARNED = ["adapter", "live policy", "gripper", "scale", "training frames"]
FIRST, LAST = ["replay", "statistics", "chunk settings", "contract", "numbers"], ["range", "control rate"]
PROBES = [*FIRST, *LEARNED, "image", "instruction", "proprioception", *LAST]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("probed") / "touches"


@pytest.fixture
def run(run_of, configuration, dataset, base, tiny_contract) -> Path:
    """A run whose data can be looked at; what it learned is noise."""
    made = run_of("noise", adapter="lora_r2", seed=0)
    noise = "+data.sources.0.noise={_target_: vla_tune.record.Noise, share: 0.0, burst: 0.0}"
    source = [f"data.sources.0.folder={dataset}", "data.sources.0.episodes=3", noise]
    options = ["adapter=lora_r2", f"model.folder={base}", "task=touch", "device=cpu", *source]
    cfg = configuration("train", *options)
    (made / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return made


def probed(run: Path) -> list[Finding]:
    """What ends a training: it is read back and examined, and frames are kept."""
    data, policy = build(OmegaConf.load(run / "config.yaml").data), load_policy(run, rows=1, device="cpu").policy
    recorded = recorded_in(data, count=6)
    base = agreement(load_base(run, rows=1, device="cpu"), recorded, policy.contract)
    played = replay(data.validation, lambda task: environment_of(run)(task=task or "touch"), count=5)
    return probed_run(run, policy, data, recorded, base, played)


def test_after_training_a_run_is_examined_and_frames_are_kept(run):
    findings = {finding.probe: finding for finding in probed(run)}
    assert list(findings) == PROBES
    assert findings["replay"].said.startswith("1 of 1 recorded episodes succeed")
    assert findings["image"].passed
    assert not findings["statistics"].passed  # the contract of this run is not that of the data
    assert {record["probe"] for record in json.loads((run / CHECK_FILE).read_text())} == findings.keys()
    assert 1 <= len(Kept.load(run).seen) <= 6


def test_it_says_which_probes_failed_and_writes_all_of_them(run, configuration):
    with pytest.raises(CheckFailedError, match=r"of 15 probes failed: statistics"):
        check(configuration("check", f"run={run}", "frames=3", "device=cpu"))
    assert len(json.loads((run / CHECK_FILE).read_text())) == 15
    with pytest.raises(ValueError, match="neither a run nor a policy is named"):
        check(configuration("check"))


def test_an_environment_of_ones_own_is_named_by_the_user(run, configuration):
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.env.make.id = "my_lab:Bench-v0"
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    with pytest.raises(ValueError, match=r"my_lab:Bench-v0.*env=<yours>"):
        _environment(configuration("check", f"run={run}"), run)
    env = _environment(configuration("check", f"run={run}", "env=tabletop"), run)(task="touch")
    assert env.spec is not None
    assert env.spec.id == "vla_tune/Tabletop-v0"
    env.close()


def test_a_run_without_an_environment_is_not_replayed(run, configuration):
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.evaluation.protocol._target_ = "vla_tune.run.held_out.HeldOut"
    del cfg["env"]
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    played = _played(configuration("check", f"run={run}"), run, object.__new__(Data))
    assert (played.passed, played.said.split(":")[0]) == (True, "not tried")


def test_a_policy_alone_is_held_against_its_frames(run, configuration):
    alone = configuration("check", f"policy={run}", "device=cpu")
    with pytest.raises(FileNotFoundError, match=f"{KEPT_FILE} is missing"):
        check(alone)
    probed(run)
    assert [finding.probe for finding in check(alone)] == ["kept actions"]


def test_a_policy_that_is_not_what_was_trained_is_not_served(run, configuration):
    cfg = configuration("serve", f"policy={run}", "device=cpu")
    with pytest.raises(ValueError, match=r"holds no probe\.safetensors.*say unproved=true"):
        serve(cfg)
    assert _policies(cfg).examined(unproved=True) == []
    probed(run)
    assert [finding.passed for finding in _policies(cfg).examined(unproved=False)] == [True]
    kept = Kept.load(run)
    Kept(kept.seen, np.ascontiguousarray(-kept.chunks)).save(run)
    with pytest.raises(CheckFailedError, match="1 of 1 probes failed: kept actions"):
        serve(cfg)
