"""Several adapters over one base: each row as its own adapter alone would have it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from vla_tune.adapters import Full, Lora
from vla_tune.adapters.bank import BASE, AdapterBank, Branched
from vla_tune.adapters.branches import LowRankBranch
from vla_tune.adapters.changes import LowRank
from vla_tune.data.collate import Batch
from vla_tune.models.openvla import OpenVLA

HASH = "0" * 64
EVERYWHERE = ("vision_backbone", "projector", "language_model")
ADAPTERS: Mapping[str, Callable[[str], Lora]] = {
    "narrow": lambda base: Lora(rank=2, alpha=4, targets=["q_proj", "v_proj"], base=base),
    "wide": lambda base: Lora(rank=8, alpha=8, targets=["*_proj"], base=base),
    "eyes": lambda base: Lora(
        rank=3,
        alpha=6,
        targets=["*_proj", "proj", "qkv", "fc1", "fc2", "lm_head"],
        towers=EVERYWHERE,
        base=base,
        initialisation="gaussian",
    ),
}


@pytest.fixture
def saved(tmp_path: Path, load_base) -> Callable[[str], dict[str, tuple[Lora, Path, OpenVLA]]]:
    """Adapters that learned something random: the method, its files, and a model of its own that carries it."""

    def build(base: str) -> dict[str, tuple[Lora, Path, OpenVLA]]:
        made = {}
        for seed, (name, adapter_of) in enumerate(ADAPTERS.items(), start=3):
            adapter, model = adapter_of(base), load_base(base)
            torch.manual_seed(seed)
            adapter.attach(model)
            for parameter in adapter.stored(model).values():
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
            adapter.save(tmp_path / name, model, base_hash=HASH)
            made[name] = (adapter, tmp_path / name, model.eval())
        return made

    return build


def bank_of(model: nn.Module, saved: Mapping[str, tuple[Lora, Path, OpenVLA]]) -> AdapterBank:
    bank = AdapterBank(model, base_hash=HASH)
    for name, (adapter, folder, _) in saved.items():
        bank.add(name, adapter, folder)
    return bank


def logits(model: OpenVLA, batch: Batch) -> Tensor:
    """Of every position, row by row."""
    with torch.no_grad():
        hidden = model(batch)
        return model.vocabulary_logits(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


@pytest.mark.parametrize(("base", "tolerance"), [("fp32", 1e-4), ("bf16", 0.15), ("nf4", 0.15)])
def test_each_row_is_what_its_adapter_alone_gives(load_base, saved, tiny_batch, base, tolerance):
    """Against the same adapters in models of their own, attached by peft; in bf16 the two round at different places."""
    adapters = saved(base)
    model = load_base(base)
    plain = logits(model, tiny_batch)
    bank = bank_of(model, adapters)
    alone = {name: logits(live, tiny_batch) for name, (_, _, live) in adapters.items()} | {BASE: plain}
    for names in (["narrow", "wide", "eyes"], ["eyes", BASE, "narrow"], ["wide"] * 3):
        with bank.chosen(names):
            mixed = logits(model, tiny_batch)
        for row, name in enumerate(names):
            scale = alone[name][row].std()
            assert (mixed[row] - alone[name][row]).square().mean().sqrt() <= tolerance * scale, name
            others = [alone[other][row] for other in alone if other != name]
            apart = min((mixed[row] - other).square().mean().sqrt() for other in others)
            assert apart > 1.5 * tolerance * scale, "the adapters must differ"


@pytest.mark.parametrize("base", ["bf16", "nf4"])
def test_a_row_does_not_depend_on_the_adapters_of_others(load_base, saved, tiny_batch, base):
    model = load_base(base)
    plain = logits(model, tiny_batch)
    bank = bank_of(model, saved(base))
    with bank.chosen(["narrow", "wide", BASE]), torch.autocast("cpu", torch.bfloat16):
        mixed = logits(model, tiny_batch)
    for row, name in enumerate(["narrow", "wide"]):
        with bank.chosen([name] * 3), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(logits(model, tiny_batch)[row], mixed[row])
    with bank.chosen([BASE, "wide", "eyes"]):
        assert torch.equal(logits(model, tiny_batch)[0], plain[0])
    with bank.chosen([BASE] * 3):
        assert torch.equal(logits(model, tiny_batch), plain)
    assert torch.equal(logits(model, tiny_batch), plain), "outside, the model is the base"


def test_adapters_come_and_go(load_base, saved, tiny_batch):
    adapters, model = saved("bf16"), load_base("bf16")
    names = [name for name, _ in model.named_modules()]
    plain, bank = logits(model, tiny_batch), bank_of(model, adapters)
    with bank.chosen(["wide"] * 3):
        wide = logits(model, tiny_batch)
    bank.remove("narrow")
    bank.remove("eyes")
    assert bank.names == ("wide",)
    with bank.chosen(["wide"] * 3):
        assert torch.allclose(logits(model, tiny_batch), wide, atol=0.05 * float(wide.std()))
    with pytest.raises(ValueError, match="adapter 'narrow': loaded are base, wide"), bank.chosen(["narrow"] * 3):
        pass
    adapter, folder, _ = adapters["narrow"]
    bank.add("wide", adapter, folder)  # in its place
    with bank.chosen(["wide"] * 3):
        assert (logits(model, tiny_batch) - wide).abs().max() > 0.1 * wide.std()
    bank.remove("wide")
    assert [name for name, _ in model.named_modules()] == names
    assert torch.equal(logits(model, tiny_batch), plain)


def test_one_that_cannot_be_added_changes_nothing(load_base, saved, tmp_path, tiny_batch):
    adapters, model = saved("bf16"), load_base("bf16")
    bank = bank_of(model, adapters)
    with bank.chosen(["narrow", "wide", "eyes"]):
        before = logits(model, tiny_batch)
    adapter, folder, live = adapters["narrow"]
    adapter.save(tmp_path / "foreign", live, base_hash="1" * 64)
    full, whole = Full(base="fp32", targets=["language_model.lm_head.weight"]), load_base("fp32")
    full.attach(whole)
    full.save(tmp_path / "full", whole, base_hash=HASH)
    with pytest.raises(ValueError, match="Use the base folder of its training run"):
        bank.add("narrow", adapter, tmp_path / "foreign")
    with pytest.raises(ValueError, match="adapter is for base=nf4, the model has bf16"):
        bank.add("new", ADAPTERS["wide"]("nf4"), folder)
    with pytest.raises(ValueError, match="any word but 'base'"):
        bank.add(BASE, adapter, folder)
    with pytest.raises(ValueError, match=r"learned in full.*load this run alone"):
        AdapterBank(whole_base := load_base("fp32"), base_hash=HASH).add("new", full, tmp_path / "full")
    assert not any(isinstance(module, Branched) for module in whole_base.modules())
    with bank.chosen(["narrow", "wide", "eyes"]):
        assert torch.equal(logits(model, tiny_batch), before)
    with pytest.raises(ValueError, match="load the base afresh"):
        AdapterBank(live, base_hash=HASH)
    assert any(isinstance(module, LoraLayer) for module in live.modules())


@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    convolution=st.booleans(),
    magnitudes=st.lists(st.booleans(), min_size=4, max_size=4),
    repeated=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_branch_is_the_changed_weight(ranks, rows, convolution, magnitudes, repeated):
    """W changed by `LowRank`, applied row by row, against the branches beside W in one product."""
    torch.manual_seed(len(rows))
    layer = nn.Conv2d(3, 6, 2, stride=2) if convolution else nn.Linear(7, 6)
    weight, kernel = layer.weight.detach(), (2, 2) if convolution else ()
    changes = [
        LowRank(
            torch.randn(6, rank, *[1] * len(kernel)),
            torch.randn(rank, 3 if convolution else 7, *kernel),
            0.5,
            torch.rand(6) + 0.5 if magnitude else None,
        )
        for rank, magnitude in zip(ranks, magnitudes, strict=False)
    ]
    stack = LowRankBranch.stack([LowRankBranch.of(change, layer) for change in changes] + [None])
    numbers = [row if row <= len(changes) + 1 else 0 for row in rows]
    inputs = torch.randn(len(rows) * repeated, 3, 4, 6) if convolution else torch.randn(len(rows) * repeated, 2, 7)
    with torch.no_grad():
        outputs = stack(layer, inputs, layer(inputs), torch.tensor(numbers))
        for index, number in enumerate(numbers):
            if 1 <= number <= len(changes):
                layer.weight.data = changes[number - 1](weight)
            own = slice(index * repeated, (index + 1) * repeated)
            torch.testing.assert_close(outputs[own], layer(inputs[own]), atol=1e-4, rtol=1e-4)
            layer.weight.data = weight
