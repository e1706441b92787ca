import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file

from vla_tune.adapters import Full, Lora
from vla_tune.adapters.files import read_tensors, write_tensors

HASH = "a" * 64
WEIGHTS = "adapter_model.safetensors"
names = st.text("abcdefgh.", min_size=1, max_size=12)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def learned(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def attached(adapter, model):
    adapter.attach(model)
    return model


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@settings(max_examples=25, deadline=None)
@given(content=st.dictionaries(names, st.tuples(shapes, st.sampled_from([torch.float32, torch.bfloat16])), min_size=1, max_size=5))
def test_what_is_written_is_what_is_read(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("tensors") / "folder" / "file.safetensors"
    tensors = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in content.items()}
    write_tensors(path, tensors, base="bf16", base_hash=HASH)
    read = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    read_tensors(path, read, base="bf16", base_hash=HASH)
    assert same(read, tensors)
    assert [child.name for child in path.parent.iterdir()] == ["file.safetensors"]


@pytest.mark.parametrize("base", ["fp32", "bf16", "nf4"])
def test_an_adapter_comes_back_bit_for_bit(adapted, load_base, tmp_path, tiny_batch, base):
    adapter, model = adapted(base)
    adapter.save(tmp_path, model, base_hash=HASH)
    fresh = attached(adapter, load_base(base))
    assert not same(learned(fresh), learned(model))
    adapter.load(tmp_path, fresh, base_hash=HASH)
    assert same(learned(fresh), learned(model))
    with torch.no_grad():
        assert torch.equal(fresh(tiny_batch), model(tiny_batch))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks transformers 5
def test_peft_opens_the_folder(adapted, load_base, tmp_path, tiny_batch):
    adapter, model = adapted("bf16")
    adapter.save(tmp_path, model, base_hash=HASH)
    theirs = PeftModel.from_pretrained(load_base("bf16"), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(theirs.base_model.model(tiny_batch), model(tiny_batch))
    keys = load_file(tmp_path / WEIGHTS)
    assert "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in keys
    assert len(keys) == 40


def test_full_fine_tuning_keeps_the_weights_that_learn(load_base, tmp_path):
    adapter = Full(targets=["projector.*"])
    model = attached(adapter, load_base("fp32"))
    with torch.no_grad():
        model.projector.fc1.weight.add_(1e-6)  # a step that bfloat16 would round away
    adapter.save(tmp_path, model, base_hash=HASH)
    fresh = attached(adapter, load_base("fp32"))
    assert not same(learned(fresh), learned(model))
    adapter.load(tmp_path, fresh, base_hash=HASH)
    assert same(learned(fresh), learned(model))
    with pytest.raises(ValueError, match="tensors missing"):
        Full().load(tmp_path, attached(Full(), load_base("fp32")), base_hash=HASH)


def rename_a_key(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["renamed"] = tensors.pop(min(tensors))
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "base": "bf16", "base_hash": HASH})


def drop_a_key(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors[min(tensors)]
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "base": "bf16", "base_hash": HASH})


def drop_the_base(folder):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def cut_short(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(data[:-100])


def edit_alpha(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 16}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename_a_key, r"1 tensors missing .* 1 left over \(first \['renamed'\]\)"),
        (drop_a_key, "1 tensors missing"),
        (drop_the_base, "trained on base=None"),
        (cut_short, "cut short"),
        (edit_alpha, "lora_alpha is 16, this adapter has 8"),
    ],
)
def test_a_damaged_adapter_is_refused_and_nothing_is_read(adapted, load_base, tmp_path, damage, message):
    adapter, model = adapted("bf16")
    adapter.save(tmp_path, model, base_hash=HASH)
    damage(tmp_path)
    fresh = attached(adapter, load_base("bf16"))
    before = learned(fresh)
    with pytest.raises(ValueError, match=message):
        adapter.load(tmp_path, fresh, base_hash=HASH)
    assert same(learned(fresh), before)


def test_another_base_is_refused(adapted, load_base, tmp_path):
    adapter, model = adapted("bf16")
    adapter.save(tmp_path, model, base_hash=HASH)
    with pytest.raises(ValueError, match=f"hash {HASH}, this one has {'b' * 64}"):
        adapter.load(tmp_path, model, base_hash="b" * 64)
    other = Lora(rank=4, alpha=8, targets=adapter.targets, base="nf4")
    with pytest.raises(ValueError, match="trained on base=bf16, the model is base=nf4"):
        other.load(tmp_path, attached(other, load_base("nf4")), base_hash=HASH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, "r is 4, this adapter has 8"),
        ({"alpha": 4}, "lora_alpha is 8, this adapter has 4"),
        ({"targets": ("q_proj",)}, "target_modules is .* this adapter has"),
    ],
)
def test_another_adapter_is_refused(adapted, load_base, tmp_path, changes, message):
    adapter, model = adapted("bf16")
    adapter.save(tmp_path, model, base_hash=HASH)
    other = Lora(**{"rank": 4, "alpha": 8, "targets": adapter.targets} | changes)
    with pytest.raises(ValueError, match=message):
        other.load(tmp_path, attached(other, load_base("bf16")), base_hash=HASH)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    write_tensors(tmp_path / "file", {"weight": torch.ones(2, 3)}, base="bf16", base_hash=HASH)
    for wanted in (torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match=r"weight is torch.float32 \(2, 3\), the model has"):
            read_tensors(tmp_path / "file", {"weight": wanted}, base="bf16", base_hash=HASH)


def test_a_missing_adapter_is_named(adapted, tmp_path):
    adapter, model = adapted("bf16")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json is missing"):
        adapter.load(tmp_path / "nowhere", model, base_hash=HASH)
    adapter.save(tmp_path, model, base_hash=HASH)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors is missing"):
        adapter.load(tmp_path, model, base_hash=HASH)


def test_equal_adapters_are_equal_files(tmp_path) -> None:
    """Header included: evaluations are named by the hash of the file."""
    one = {"b": torch.ones(2, dtype=torch.bfloat16), "a": torch.zeros(3), "c": torch.ones(())}
    for name, tensors in (("first", one), ("second", dict(reversed(one.items())))):
        write_tensors(tmp_path / name, tensors, base="bf16", base_hash=HASH)
    content = (tmp_path / "first").read_bytes()
    assert content == (tmp_path / "second").read_bytes()
    assert content[8:].startswith(b'{"__metadata__": {"format": "pt", "base": "bf16", "base_hash": ')
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["first", "second"]
