"""A contract that was edited after training is refused by name of the field, also where its hashes were made anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_tune.check.kept import Kept
from vla_tune.run.export import export_run
from vla_tune.run.merge import merge_run
from vla_tune.run.proof import check_contract_of
from vla_tune.schema import Contract, Gripper, Observation


def kept(contract: Contract | None) -> Kept:
    seen = [Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(4, np.float32), "lift the red block")]
    return Kept(seen, np.zeros((1, 4, 4), np.float32), contract)


def turned(contract: Contract) -> Contract:
    """Its gripper opens where it should close."""
    body = contract.embodiment
    suction = replace(body.action[1], gripper=Gripper(engaged=0.0, released=1.0))
    return replace(contract, embodiment=replace(body, action=(body.action[0], suction)))


def test_the_kept_frames_say_by_which_contract_they_were_made(tmp_path: Path, tiny_contract: Contract):
    check_contract_of(tmp_path, turned(tiny_contract))  # nothing was kept
    kept(tiny_contract).save(tmp_path)
    check_contract_of(tmp_path, tiny_contract)
    with pytest.raises(ValueError, match=r"not that of training: embodiment.action\[1\].gripper.engaged is 0.0, was 1.0; "):
        check_contract_of(tmp_path, turned(tiny_contract))
    kept(None).save(tmp_path)
    check_contract_of(tmp_path, turned(tiny_contract))  # as older runs keep them


@pytest.mark.parametrize(("script", "act"), [("merge", merge_run), ("export", export_run)])
def test_merge_and_export_refuse_it_before_any_work(run_of, configuration, tmp_path: Path, script: str, act):
    run = run_of("one", adapter="lora_r2", seed=1)
    kept(Contract.load(run)).save(run)
    for folder in (run, run / "adapter"):
        turned(Contract.load(folder)).save(folder)
    with pytest.raises(ValueError, match="not that of training"):
        act(configuration(script, f"run={run}", f"to={tmp_path / 'to'}"))
    assert not (tmp_path / "to").exists()
