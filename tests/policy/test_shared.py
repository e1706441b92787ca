"""Policies over one base: each acts as the same adapter in a model of its own, whoever stands beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_tune.adapters import Lora
from vla_tune.data import build_pipeline
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import Policy, SharedPolicies
from vla_tune.schema import Observation

HASH = "0" * 64


def crowd(count: int) -> list[Observation]:
    """What several robots see at once."""
    generator = np.random.default_rng(7)
    images = [generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count)]
    states = generator.uniform([-0.2, -0.2, 0, 0], [0.2, 0.2, 0.14, 1], (count, 4)).astype(np.float32)
    pairs = zip(images, states, strict=True)
    return [Observation(images={"front": image}, state=state, instruction="lift the red block") for image, state in pairs]


@pytest.fixture
def adapters(policy, tiny_config_record, tmp_path):
    """Two adapters: the method, its files, and what each alone does."""
    made = {}
    for seed, name in enumerate(("one", "two"), start=1):
        model, adapter = OpenVLA(tiny_config_record), Lora(rank=seed, alpha=8, targets=["*_proj"], base="fp32")
        model.load_state_dict(policy.model.network.state_dict())
        torch.manual_seed(seed)
        adapter.attach(model)
        for parameter in adapter.stored(model).values():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
        adapter.save(tmp_path / name, model, base_hash=HASH)
        made[name] = (adapter, tmp_path / name, replace(policy, model=policy.model.head.over(model.eval())).act(crowd(6)))
    return made


@pytest.fixture
def shared(policy, adapters) -> SharedPolicies:
    policies = SharedPolicies(policy.model.network, base_hash=HASH, rows=4, base=policy)
    for name, (adapter, folder, _) in adapters.items():
        policies.add(name, policy, adapter, folder)
    return policies


def test_each_acts_as_its_adapter_alone(shared, policy, adapters):
    alone = {name: chunks for name, (_, _, chunks) in adapters.items()} | {"base": policy.act(crowd(6))}
    names = ["one", "two", "base", "base", "two", "one"]
    together = shared.act(crowd(6), names)
    for row, name in enumerate(names):
        np.testing.assert_allclose(together[row], alone[name][row], atol=1e-6)
        assert any(not np.allclose(together[row], alone[other][row]) for other in alone if other != name)
    for name, chunks in alone.items():
        one = shared.policy(name)
        assert isinstance(one, Policy)
        np.testing.assert_allclose(one.act(crowd(6)), chunks, atol=1e-6)
        one.reset()


def test_company_changes_no_bit(shared):
    names = ["one", "two", "base", "two", "one", "base"]
    together = shared.act(crowd(6), names)
    for row, name in enumerate(names):
        np.testing.assert_array_equal(shared.act([crowd(6)[row]], [name])[0], together[row])


def test_robots_of_different_units_share_a_pass(shared, policy, adapters, tiny_tokenizer):
    contract = policy.contract
    action = contract.statistics.action
    wider = replace(action, q01=tuple(10 * value for value in action.q01), q99=tuple(10 * value for value in action.q99))
    contract = replace(contract, statistics=replace(contract.statistics, action=wider))
    other = replace(policy, contract=contract, pipeline=build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)))
    adapter, folder, chunks = adapters["two"]
    shared.add("wide", other, adapter, folder)
    wide, narrow = shared.act([crowd(6)[0]] * 2, ["wide", "two"])
    np.testing.assert_allclose(wide[..., :3], 10 * narrow[..., :3], atol=1e-6)
    np.testing.assert_allclose(narrow, chunks[0], atol=1e-6)


def test_they_come_and_go(shared, adapters):
    assert shared.names == ("base", "one", "two")
    shared.remove("one")
    with pytest.raises(ValueError, match="adapter 'one': loaded are base, two"):
        shared.act(crowd(1), ["one"])
    with pytest.raises(ValueError, match="adapter 'one': loaded are base, two"):
        shared.policy("one")
    np.testing.assert_allclose(shared.policy("two").act(crowd(6)), adapters["two"][2], atol=1e-6)


def test_a_policy_over_another_model_is_refused(shared, policy, adapters, tiny_config_record):
    adapter, folder, _ = adapters["one"]
    foreign = replace(policy, model=policy.model.head.over(OpenVLA(tiny_config_record)))
    with pytest.raises(ValueError, match="has a model of its own"):
        shared.add("three", foreign, adapter, folder)
    assert shared.names == ("base", "one", "two")
