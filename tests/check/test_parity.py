"""Policies that say one code after the other are compared code by code, and every merge by what it keeps of the gain."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_tune.check.parity import Losses, Tolerance, compared, held_out_losses, parity, witness
from vla_tune.data import build_pipeline
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.openvla.inputs import OpenVLAInputs, space_of
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Contract, Observation, to_record

STOP = 2


@pytest.fixture
def contract(tiny_contract: Contract) -> Contract:
    return replace(tiny_contract, model=tiny_contract.model | {"decoding": "autoregressive"})


@pytest.fixture
def policy(tiny_model, tiny_tokenizer, contract) -> LocalPolicy:
    with torch.no_grad():
        for weight in tiny_model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    head = AutoregressiveTokenHead(space_of(contract, stop_id=STOP))
    return LocalPolicy(
        head.over(tiny_model.eval()),
        build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)),
        contract,
        pad_id=512,
        rows=4,
    )


def observations(count: int) -> list[Observation]:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count)]
    return [Observation({"front": image}, noise.uniform(0, 0.1, 4).astype(np.float32), "lift the red block") for image in images]


def nudged(policy: LocalPolicy, scale: float) -> LocalPolicy:
    """The same policy with rounding errors of a size."""
    torch.manual_seed(0)
    network = policy.model.network
    model = type(network)(network.config).eval()
    model.load_state_dict(network.state_dict())  # pyright: ignore
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + scale * torch.randn_like(weight))
    return replace(policy, model=policy.model.head.over(model))  # pyright: ignore


def test_a_policy_is_itself(policy, contract):
    report = parity(policy, policy, observations(5), contract=contract)
    assert (report.token_agreement, report.exact_agreement) == (1.0, 1.0)
    assert max(report.max_error) == 0
    assert report.passed


def test_one_tipped_code_does_not_count_for_all_that_follow(policy, contract):
    """A free comparison of chunks sees more differences than there are between the policies."""
    seen, other = observations(12), nudged(policy, 1e-3)
    given = parity(policy, other, seen, contract=contract).exact_agreement
    free = float((policy.act(seen) == other.act(seen)).mean())
    assert free < given < 1


def test_codes_without_an_order_are_compared_as_codes(policy, contract, tiny_tokenizer):
    from types import SimpleNamespace

    from vla_tune.tokens import fit_fast

    chunks = np.random.default_rng(0).uniform(-1, 1, (200, 4, 4)).astype(np.float32)
    fast = fit_fast(256, 10.0, vocabulary_size=512, actions=SimpleNamespace(chunks=chunks, counted=chunks < 2))
    contract = replace(contract, resolution=0.1, model=contract.model | {"action_tokens": to_record(fast.to_record())})
    head = AutoregressiveTokenHead(space_of(contract, stop_id=STOP))
    pipeline = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))
    fast_policy = replace(policy, model=head.over(policy.model.network), contract=contract, pipeline=pipeline)
    report = parity(fast_policy, fast_policy, observations(3), contract=contract)
    assert report.token_agreement == 1.0
    assert report.dimensions == ()
    assert parity(fast_policy, nudged(fast_policy, 0.3), observations(3), contract=contract).token_agreement < 0.9


@pytest.mark.parametrize(("merged", "kept", "passed"), [(1.0, 1.0, True), (1.015, 0.985, False), (0.9, 1.1, True)])
def test_a_merge_keeps_what_training_gained(policy, contract, merged, kept, passed):
    losses = Losses(base=2.0, live=1.0, merged=merged)
    assert losses.gain_kept == pytest.approx(kept)
    report = compared(witness(policy, observations(2)), policy, contract=contract, losses=losses)
    assert report.passed is passed
    assert f"{kept:.2%} of the gain is kept" in str(report)


def test_of_a_small_gain_rounding_may_take_more():
    assert Losses(base=1.03, live=1.0, merged=1.0015).kept(Tolerance())
    assert not Losses(base=1.03, live=1.0, merged=1.0025).kept(Tolerance())


def test_where_nothing_was_gained_there_is_nothing_to_keep(policy, contract):
    losses = Losses(base=1.0, live=1.0, merged=3.0)
    report = compared(witness(policy, observations(2)), policy, contract=contract, tolerance=Tolerance(), losses=losses)
    assert losses.gain_kept is None
    assert report.passed


def test_the_loss_is_the_mean_over_all_labels(policy, contract):
    noise = np.random.default_rng(1)
    frames = [
        {
            "observation.images.front": noise.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            "observation.state": noise.uniform(0, 0.1, 4).astype(np.float32),
            "instruction": "lift the red block",
            "index": np.array([0, row]),
            "actions": noise.uniform(-0.02, 0.02, (4, 4)).astype(np.float32),
            "action_mask": np.repeat(np.arange(4)[:, None] < 4 - row % 3, 4, axis=1),
        }
        for row in range(5)
    ]
    whole, in_passes = (held_out_losses(policy, frames, rows=rows) for rows in (5, 2))
    assert whole == pytest.approx(in_passes, rel=1e-3)
    assert whole.mean() == pytest.approx(np.log(policy.model.network.config.text_config.vocab_size), rel=1.0)  # pyright: ignore


SETTLED = np.linspace(0.5, 3.0, 400)
"""Losses of labels where training ended; before it, 2 more."""


@pytest.mark.parametrize(
    ("drift", "agreement", "passed"),
    [
        (0.004, 0.97, True),  # near-ties: which of them tip is a matter of rounding
        (0.004, 0.85, False),
        (0.012, 0.97, False),
        (0.012, 0.99, True),
        (0.05, 1.0, False),  # all actions are the same, and what they follow from is not
    ],
)
def test_near_ties_refuse_no_merge_and_a_drift_does(policy, contract, drift, agreement, passed):
    merged = SETTLED + drift * np.resize([1.0, -1.0], len(SETTLED))  # the mean loss says nothing
    losses = Losses.of(SETTLED + 2.0, SETTLED, merged)
    assert losses.gain_kept == pytest.approx(1.0)
    same = compared(witness(policy, observations(2)), policy, contract=contract, losses=losses)
    assert replace(same, token_agreement=agreement).passed is passed


def test_a_loss_that_is_no_number_is_not_kept():
    for name in ("base", "live", "merged"):
        assert not Losses(**{"base": 2.0, "live": 1.0, "merged": 1.0} | {name: np.nan}).kept(Tolerance())
    assert not Losses.of(SETTLED, SETTLED, SETTLED * np.nan).kept(Tolerance())
    assert not Losses.of(SETTLED, SETTLED, SETTLED + 2.0).kept(Tolerance()), "nothing was gained, and another function"
