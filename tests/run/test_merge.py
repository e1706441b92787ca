"""scripts/merge.py with its gates, on runs that learned noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla_tune.check.parity import held_out_losses
from vla_tune.data.recorded import observation_in
from vla_tune.export import ParityError
from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.run import gates
from vla_tune.run.merge import dtype_of, merge_run
from vla_tune.run.objects import load_policy, policy_of

LOOSE = ("tolerance.token_agreement=0.5", "tolerance.mean_error=1.0")
"""Untrained codes tip between bins that are far apart."""


@pytest.fixture
def merged(configuration, frames, tiny_contract, monkeypatch: pytest.MonkeyPatch):
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames]
    monkeypatch.setattr(gates, "data_of", lambda run: None)
    monkeypatch.setattr(gates, "recorded_frames", lambda data, *, count: frames[:count])
    monkeypatch.setattr(gates, "recorded_observations", lambda data, *, count: seen[:count])

    def run(folder: Path, *overrides: str):
        return merge_run(configuration("merge", f"run={folder}", *overrides))

    return run


@pytest.mark.parametrize("adapter", ["lora_r2", "qlora_r16"])
def test_the_report_says_what_is_kept_of_the_gain(adapter, run_of, merged):
    run = run_of("one", adapter=adapter, seed=1)
    report = merged(run, *LOOSE, "tolerance.gain_kept=-100.0")
    losses = report.losses
    assert losses.base != losses.live
    assert losses.merged == pytest.approx(losses.live, rel=0.02)
    assert json.loads((run / "parity.json").read_text())["losses"]["live"] == losses.live
    assert "held-out loss: base" in str(report)


@pytest.mark.parametrize("adapter", ["lora_r2", "qlora_r16"])
def test_layers_are_compared_where_the_model_is_too_large(adapter, run_of, merged, base: Path):
    run = run_of("one", adapter=adapter, seed=1)
    report = merged(run, "gate=layers", "gate.layers=4")
    assert report.passed
    assert len(report.layers) == 4
    assert report.layers[0].endswith("layers.0.self_attn.q_proj")
    assert max(report.errors) < 0.005 < min(report.effects)
    assert (run / "merged" / "contract.json").is_file()


def test_a_merge_onto_other_weights_fails_the_layers_too(run_of, merged):
    run = run_of("one", adapter="qlora_r16", seed=1, scale=0.01)
    with pytest.raises(ParityError, match="merged layers are NOT what was trained"):
        merged(run, "gate=layers", "base=original")
    assert not (run / "merged").exists()


def test_float32_keeps_every_bit(run_of, merged, base: Path):
    run = run_of("one", adapter="lora_r2", seed=1)
    merged(run, *LOOSE, "dtype=fp32", "tolerance.gain_kept=-100.0")
    written, plain = load_file(run / "merged" / "model.safetensors"), load_file(base / "model.safetensors")
    assert written.keys() == plain.keys()
    assert (written["projector.fc1.weight"] == plain["projector.fc1.weight"].float()).all()


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [("trained", "fp32", torch.float32), ("trained", "nf4", torch.bfloat16), ("bf16", "fp32", torch.bfloat16)],
)
def test_what_was_trained_in_float32_is_not_rounded_unless_it_is_said(name: str, base: str, expected: torch.dtype, tmp_path):
    assert dtype_of(name, OpenVLACheckpoint(str(tmp_path), base=base)) == expected


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_merged_policy_is_played_as_it_was_written(run_of, merged, frames, tiny_contract, dtype: str, expected: torch.dtype):
    run = run_of("one", adapter="lora_r2", seed=1, precision="fp32")
    report = merged(run, *LOOSE, f"dtype={dtype}", "tolerance.gain_kept=-100.0")
    policy = load_policy(run / "merged", rows=1, device="cpu").policy
    assert {parameter.dtype for parameter in policy.model.network.parameters()} == {expected}  # pyright: ignore[reportAttributeAccessIssue]
    exact = OpenVLACheckpoint(str(run / "merged"), base=dtype)
    interface = exact.interface(policy.contract)
    other = policy_of(exact.load(device="cpu"), policy.contract, interface, rows=1, device="cpu")
    seen = [observation_in(frame, tiny_contract.embodiment) for frame in frames]
    assert np.array_equal(policy.act(seen), other.act(seen))
    assert report.losses.merged == pytest.approx(held_out_losses(other, frames).mean(), abs=1e-6)
