from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from vla_tune.adapters import Adapter, Full, Lora
from vla_tune.adapters.lora import update
from vla_tune.check.parity import ParityReport, Tolerance, parity
from vla_tune.data import build_pipeline
from vla_tune.export import ParityError, merge
from vla_tune.models.files import content_hash
from vla_tune.models.nf4 import plain_weights, quantize
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.load import OPENVLA_NF4, empty_model, load
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.models.precision import choose_attention
from vla_tune.policy import LocalPolicy, Policy
from vla_tune.schema import Contract, Observation

RANDOM_WEIGHTS = Tolerance(token_agreement=0.85, mean_error=0.25)
"""Without training, a near-tie tips between bins that are far apart, and which ones tip depends on the machine's arithmetic."""
TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
bf16 = partial(torch.autocast, "cpu", torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Run:
    """A trained adapter on disk and in memory."""

    base: Path
    adapter_folder: Path
    adapter: Adapter
    model: OpenVLA
    policy: Callable[[OpenVLA], LocalPolicy]
    compare: Callable[[LocalPolicy], ParityReport]
    """With the live policy."""
    export: Callable[..., ParityReport]


@pytest.fixture
def trained(tmp_path, tiny_model, tiny_tokenizer, tiny_contract, tiny_head) -> Callable[[Adapter], Run]:
    """Attach `adapter` to a random base, and let it learn something random."""

    def policy(model: OpenVLA) -> LocalPolicy:
        return LocalPolicy(
            tiny_head.over(model),
            build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)),
            tiny_contract,
            pad_id=512,
            precision=bf16,
        )

    def build(adapter: Adapter) -> Run:
        with torch.no_grad():  # freshly initialised, it would say the same whatever it sees
            for weight in tiny_model.parameters():
                weight.mul_(5.0 if weight.ndim > 1 else 1.0)
        base, folder = tmp_path / "base", tmp_path / "adapter"
        save_checkpoint(base, tiny_model, tiny_tokenizer, tiny_contract)
        model = load(base, base=adapter.base)
        torch.manual_seed(1)
        adapter.attach(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        adapter.save(folder, model, base_hash=content_hash(base))
        live = policy(model)
        compare = partial(parity, live, observations=observations(), contract=tiny_contract, tolerance=RANDOM_WEIGHTS)
        export = partial(
            merge,
            base=OpenVLACheckpoint(str(base), adapter.base),
            adapter=adapter,
            adapter_folder=folder,
            contract=tiny_contract,
            check=lambda written: compare(policy(load(written))),
        )
        return Run(base, folder, adapter, model, policy, compare, export)

    return build


def observations(count: int = 24) -> list[Observation]:
    generator = np.random.default_rng(0)
    sentences = ["lift the red block", "push the green block left", "touch the blue block"]
    return [
        Observation(
            images={"front": generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)},
            state=generator.uniform([-0.2, -0.2, 0, 0], [0.2, 0.2, 0.14, 1]).astype(np.float32),
            instruction=sentences[index % 3],
        )
        for index in range(count)
    ]


def lora(base: str) -> Lora:
    return Lora(rank=8, alpha=8, targets=TARGETS, base=base)


@dataclass(frozen=True)
class Fixed:
    """Always gives the same actions."""

    actions: np.ndarray

    def act(self, observations):
        return self.actions

    def reset(self):
        pass


@pytest.mark.parametrize("adapter", [lora("bf16"), lora("nf4"), lora("fp32"), Full()], ids=["lora", "qlora", "lora_fp32", "full"])
def test_the_merged_policy_acts_as_the_live_one(trained, tmp_path, tiny_contract, adapter):
    run = trained(adapter)
    report = run.export(tmp_path / "merged")
    assert report.passed, str(report)
    assert report.observations == 24
    assert not run.compare(run.policy(load(run.base))).passed, "the adapter must matter, or the test shows nothing"
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == sorted(path.name for path in run.base.iterdir())
    assert Contract.load(tmp_path / "merged") == tiny_contract
    merged, base_tensors = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", run.base))
    assert {name: tensor.shape for name, tensor in merged.items()} == {name: tensor.shape for name, tensor in base_tensors.items()}
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


def test_a_float32_merge_is_the_live_function(trained, tmp_path, tiny_contract):
    run = trained(lora("fp32"))

    def check(written: Path) -> ParityReport:
        policies = [replace(run.policy(model), precision=torch.no_grad) for model in (run.model, load(written, base="fp32"))]
        return parity(*policies, observations(), contract=tiny_contract, tolerance=Tolerance(token_agreement=0.99))

    report = run.export(tmp_path / "merged", dtype=torch.float32, check=check)
    assert report.passed, str(report)
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.float32}


def wrong_merges(run: Run, merge_in_memory) -> dict[str, OpenVLA]:
    """What a 4-bit adapter must not be merged into: the weights before quantisation, and 4 bits again."""
    original = {name: weight.float() for name, weight in plain_weights(load(run.base))}
    for name, layer in run.model.named_modules():
        if isinstance(layer, LoraLayer):
            original[f"{name}.weight"] = original[f"{name}.weight"] + update(layer)
    onto_original, into_4_bits = empty_model(run.model.config), empty_model(run.model.config)
    onto_original.load_state_dict({name: weight.bfloat16() for name, weight in original.items()}, assign=True)
    into_4_bits.load_state_dict(merge_in_memory(run.adapter, run.model, dtype=torch.bfloat16), assign=True)
    quantize(into_4_bits, OPENVLA_NF4)
    for model in (onto_original, into_4_bits):
        choose_attention(model.eval(), "cpu")
    return {"onto the original": onto_original, "into 4 bits": into_4_bits}


def test_the_gate_tells_right_merges_of_a_4_bit_base_from_wrong_ones(trained, tmp_path, merge_in_memory):
    run = trained(lora("nf4"))
    assert run.export(tmp_path / "merged").passed
    for name, model in wrong_merges(run, merge_in_memory).items():
        report = run.compare(run.policy(model))
        assert report.token_agreement < 0.8, f"{name}: {report}"
        assert not report.passed


def test_an_evaluation_pass_of_the_live_policy_does_not_reach_the_merge(trained, tmp_path):
    run = trained(lora("nf4"))
    run.export(tmp_path / "before")
    run.policy(run.model).act(observations(3))
    run.export(tmp_path / "after")
    assert content_hash(tmp_path / "before") == content_hash(tmp_path / "after")


def test_a_merge_that_fails_the_check_leaves_nothing(trained, tmp_path):
    run = trained(lora("bf16"))
    before = sorted(tmp_path.rglob("*"))
    seen = []

    def check(written: Path) -> ParityReport:
        seen.append(written)
        return run.compare(run.policy(load(run.base)))

    with pytest.raises(ParityError, match=r"does NOT act as the live one.*(\n.*)*Nothing was written"):
        run.export(tmp_path / "merged", check=check)
    assert seen
    assert seen[0] != tmp_path / "merged"
    assert sorted(tmp_path.rglob("*")) == before


def test_another_base_and_an_existing_destination_are_refused(trained, tmp_path, tiny_tokenizer, tiny_contract):
    run = trained(lora("bf16"))
    with pytest.raises(ValueError, match="nothing is overwritten"):
        run.export(run.base)
    other = load(run.base)
    with torch.no_grad():
        other.projector.fc1.bias[0] += 1
    save_checkpoint(tmp_path / "other", other, tiny_tokenizer, tiny_contract)
    with pytest.raises(ValueError, match="Use the base folder of its training run"):
        run.export(tmp_path / "merged", base=OpenVLACheckpoint(str(tmp_path / "other"), run.adapter.base))
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_never_learned_is_not_merged(trained, tmp_path):
    run = trained(lora("bf16"))
    fresh = load(run.base)
    run.adapter.attach(fresh)
    run.adapter.save(run.adapter_folder, fresh, base_hash=content_hash(run.base))
    with pytest.raises(ValueError, match="never trained"):
        run.export(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_report_says_how_far_apart_in_robot_units(tiny_contract):
    live = np.zeros((2, 4, 4), dtype=np.float32)
    other = live.copy()
    other[0, 0, 0] = 0.03  # metres: half of the range from -0.03 to 0.03
    other[1, 3, 3] = 1.0  # the suction is on instead of off
    report = parity(Fixed(live), Fixed(other), observations(2), contract=tiny_contract)
    assert isinstance(Fixed(live), Policy)
    assert report.token_agreement == 1 - 2 / 32
    assert report.mean_error == pytest.approx((0.03 / 8, 0, 0, 1 / 8))
    assert report.max_error == pytest.approx((0.03, 0, 0, 1))
    assert report.allowed_mean_error == pytest.approx((0.01 * 0.06,) * 3 + (0.01,))
    assert not report.passed
    assert "values the same or neighbours 0.9375 (at least 0.98)" in str(report)
    assert "tool_translation[0] (m): mean error 0.00375 (at most 0.0006), largest 0.03" in str(report)


@pytest.mark.parametrize(
    ("tolerance", "passed"),
    [
        (Tolerance(token_agreement=0.96, mean_error=0.01), True),
        (Tolerance(token_agreement=0.98, mean_error=0.01), False),
        (Tolerance(token_agreement=0.96, mean_error=0.001), False),
    ],
)
def test_both_limits_are_judged(tiny_contract, tolerance, passed):
    live = np.zeros((2, 4, 4), dtype=np.float32)
    other = live.copy()
    other[0, 0, 0] = 0.001
    report = parity(Fixed(live), Fixed(other), observations(2), contract=tiny_contract, tolerance=tolerance)
    assert report.passed is passed


def test_parity_needs_frames_and_finite_actions(tiny_contract):
    live = np.zeros((1, 4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="record at least one"):
        parity(Fixed(live), Fixed(live), [], contract=tiny_contract)
    with pytest.raises(ValueError, match="the merged policy gives NaN"):
        parity(Fixed(live), Fixed(live * np.nan), observations(1), contract=tiny_contract)


def test_a_merge_at_a_lower_rank_is_checked_like_any_other(trained, tmp_path):
    """What was learned here is noise, of which every direction matters."""
    run = trained(Lora(rank=16, alpha=16, targets=TARGETS, base="fp32"))
    live = run.policy(run.model)

    def check(folder: Path, tolerance: Tolerance) -> ParityReport:
        return parity(live, run.policy(load(folder)), observations(), contract=live.contract, tolerance=tolerance)

    with pytest.raises(ParityError):
        run.export(tmp_path / "merged", rank=12)
    assert not (tmp_path / "merged").exists()
    loose = partial(check, tolerance=replace(RANDOM_WEIGHTS, token_agreement=0.5))
    run.export(tmp_path / "merged", rank=12, dtype=torch.float32, check=loose)
    base, written = (load_file(folder / "model.safetensors") for folder in (run.base, tmp_path / "merged"))
    name = next(iter(run.adapter.changes(run.adapter_folder, base_hash=content_hash(run.base))))
    assert torch.linalg.matrix_rank(written[name].float() - base[name].float(), rtol=1e-3) == 12
    with pytest.raises(ValueError, match="rank=16: the adapter's changes are of rank 16"):
        run.export(tmp_path / "same", rank=16)
