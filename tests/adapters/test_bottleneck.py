"""Bottleneck adapters: exactly the base at first, strict files, no merge, and rows of their own in a bank."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vla_tune.adapters import Adapter, Bottleneck, Lora
from vla_tune.adapters.bank import BASE, AdapterBank, Branching
from vla_tune.adapters.bottleneck import BottleneckBranch, BottleneckNetwork
from vla_tune.export import merge
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint

HASH = "0" * 64


def outputs(model: OpenVLA, batch) -> Tensor:
    with torch.no_grad():
        hidden = model(batch)
        return model.vocabulary_logits(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2]).float()


def attached(model: OpenVLA, *, base: str, size: int = 8, seed: int = 0) -> Bottleneck:
    """One that learned something."""
    torch.manual_seed(seed)
    adapter = Bottleneck(size=size, base=base)
    adapter.attach(model)
    for parameter in adapter.stored(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return adapter


@pytest.mark.parametrize("base", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("autocast", [False, True])
def test_at_first_it_is_the_base_exactly(load_base, tiny_batch, base, autocast):
    model = load_base(base)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = outputs(model, tiny_batch)
        report = Bottleneck(size=8, base=base).attach(model)
        assert torch.equal(outputs(model, tiny_batch), before)
    assert isinstance(Bottleneck(size=8), Adapter)
    assert isinstance(Bottleneck(size=8), Branching)
    assert report.trainable == 8 * (2 * 192 * 8 + 192 + 8), "two networks in each of four blocks"
    assert dict(report.modules) == {"vision_backbone": 0, "projector": 0, "language_model": 8, "proprio_projector": 0}


@pytest.mark.parametrize("base", ["fp32", "nf4"])
def test_it_learns(load_base, tiny_batch, tiny_head, learn, base):
    model = load_base(base)
    Bottleneck(size=16, base=base).attach(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = learn(tiny_head.over(model), tiny_batch, learning, rate=5e-3)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("base", ["fp32", "nf4"])
def test_saved_and_loaded_it_is_the_same(load_base, tiny_batch, tmp_path, base):
    model, again = load_base(base), load_base(base)
    before = outputs(model, tiny_batch)
    adapter = attached(model, base=base)
    adapter.save(tmp_path, model, base_hash=HASH)
    Bottleneck(size=8, base=base).attach(again)
    adapter.load(tmp_path, again, base_hash=HASH)
    assert torch.equal(outputs(again, tiny_batch), outputs(model, tiny_batch))
    assert (outputs(model, tiny_batch) - before).abs().max() > 0.1 * before.std()
    with pytest.raises(ValueError, match="an adapter changes the weights that it was trained on and no others"):
        adapter.load(tmp_path, again, base_hash="1" * 64)
    narrow = load_base(base)
    Bottleneck(size=4, base=base).attach(narrow)
    with pytest.raises(ValueError, match=r"the model has torch.float32 \(4, 192\)|the model has torch.float32 \(4,\)"):
        Bottleneck(size=4, base=base).load(tmp_path, narrow, base_hash=HASH)


def test_it_cannot_be_merged_and_says_why(load_base, tmp_path, tiny_contract):
    model = load_base("bf16")
    adapter, base = attached(model, base="bf16"), OpenVLACheckpoint(str(tmp_path / "base"))
    adapter.save(tmp_path / "adapter", model, base_hash=base.content_hash())
    with pytest.raises(ValueError, match=r"not linear in its input.*Run base and adapter together"):
        merge(
            tmp_path / "merged",
            base=base,
            adapter=adapter,
            adapter_folder=tmp_path / "adapter",
            contract=tiny_contract,
            check=lambda _: pytest.fail("nothing to check"),
        )
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("base", "tolerance"), [("fp32", 1e-4), ("nf4", 0.15)])
def test_it_shares_a_batch_with_lora(load_base, tmp_path, tiny_batch, base, tolerance):
    alone = {BASE: outputs(load_base(base), tiny_batch)}
    shared = load_base(base)
    bank = AdapterBank(shared, base_hash=HASH)
    for seed, size in enumerate((3, 8)):
        model = load_base(base)
        adapter = attached(model, base=base, size=size, seed=seed)
        adapter.save(tmp_path / str(size), model, base_hash=HASH)
        alone[str(size)] = outputs(model, tiny_batch)
        bank.add(str(size), adapter, tmp_path / str(size))
    model, lora = load_base(base), Lora(rank=4, alpha=8, targets=["o_proj", "down_proj", "q_proj"], base=base)
    lora.attach(model)
    for parameter in lora.stored(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    lora.save(tmp_path / "lora", model, base_hash=HASH)
    alone["lora"] = outputs(model, tiny_batch)
    bank.add("lora", lora, tmp_path / "lora")
    for names in (["3", "lora", "8"], ["8", BASE, "3"], ["lora", "8", BASE]):
        with bank.chosen(names):
            mixed = outputs(shared, tiny_batch)
        for row, name in enumerate(names):
            error = {other: float((mixed[row] - alone[other][row]).square().mean().sqrt()) for other in alone}
            assert error[name] <= tolerance * alone[name][row].std()
            assert min(error[other] for other in alone if other != name) > 1.5 * error[name]
    with pytest.raises(ValueError, match="load the base afresh"):
        AdapterBank(model, base_hash=HASH)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), rows=st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_stack_is_its_networks_row_by_row(sizes, rows):
    torch.manual_seed(len(rows))
    layer = nn.Linear(3, 7)
    networks = [BottleneckNetwork(7, size, device=torch.device("cpu")) for size in sizes]
    for network in networks:
        for parameter in network.parameters():
            nn.init.normal_(parameter)
    parts = [(one.down.weight, one.down.bias, one.up.weight, one.up.bias) for one in networks]
    stack = BottleneckBranch.stack([BottleneckBranch(*(part.detach() for part in own)) for own in parts] + [None])
    numbers = [row if row <= len(networks) + 1 else 0 for row in rows]
    inputs = torch.randn(len(rows), 2, 3)
    with torch.no_grad():
        found = stack(layer, inputs, layer(inputs), torch.tensor(numbers))
        for row, number in enumerate(numbers):
            one = networks[number - 1] if 1 <= number <= len(networks) else nn.Identity()
            torch.testing.assert_close(found[row], one(layer(inputs[row])), atol=1e-4, rtol=1e-4)


def test_wrong_choices_are_named(load_base):
    with pytest.raises(ValueError, match="size=0: a bottleneck is at least 1 wide"):
        Bottleneck(size=0)
    model = load_base("bf16")
    with pytest.raises(ValueError, match="'o_prj' matches nothing"):
        Bottleneck(size=4, targets=["o_prj"]).attach(model)
    Bottleneck(size=4).attach(model)
    with pytest.raises(ValueError, match="carries a bottleneck adapter already"):
        Bottleneck(size=4).attach(model)
