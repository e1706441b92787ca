import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vla_tune.models.files import content_hash, new_folder
from vla_tune.models.nf4 import num_quantized, plain_weights, quantize
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla import save as saving
from vla_tune.models.openvla.load import OPENVLA_NF4, load, load_config, load_tokenizer
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.models.openvla.tiny import tiny_config
from vla_tune.schema import Contract


@pytest.fixture
def folder(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    save_checkpoint(tmp_path / "base", tiny_model, tiny_tokenizer, tiny_contract)
    return tmp_path / "base"


def rewrite(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file(change(tensors), path)


def split_into_shards(folder: Path) -> None:
    """The layout of the published 7B checkpoints."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors, reverse=True)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / "model.safetensors").unlink()
    places = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, tiny_tokenizer, tiny_contract, seed, dtype):
    folder = tmp_path_factory.mktemp("round_trip") / "checkpoint"
    torch.manual_seed(seed)
    model = OpenVLA(tiny_config())
    save_checkpoint(folder, model, tiny_tokenizer, tiny_contract, dtype=dtype)
    loaded = load(folder, base="fp32")
    own, others = model.state_dict(), loaded.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name].to(dtype).float(), others[name]) for name in own)
    assert Contract.load(folder) == tiny_contract
    assert load_tokenizer(folder).encode("lift the red block") == tiny_tokenizer.encode("lift the red block")
    written, wanted = load_config(folder).to_dict(), tiny_config().to_dict()
    assert written.pop("norm_stats").keys() == {tiny_contract.statistics.dataset}
    text, wanted_text = written.pop("text_config"), wanted.pop("text_config")
    assert {name: text[name] for name in wanted_text if name != "dtype"} == {
        name: value for name, value in wanted_text.items() if name != "dtype"
    }
    same = wanted.keys() - {"dtype", "architectures", "norm_stats", "pad_token_id"}
    assert {name: written[name] for name in same} == {name: wanted[name] for name in same}


def test_weights_come_in_the_requested_format(folder, tiny_batch):
    for base, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = load(folder, base=base)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert not model.training
        assert model.language_model.config._attn_implementation == "eager"
        assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32  # rounded, distant positions would blur
        assert torch.isfinite(model(tiny_batch)).all()


def test_nf4_quantises_the_bfloat16_weights(folder):
    loaded, expected = load(folder, base="nf4"), load(folder, base="bf16")
    assert num_quantized(loaded) == quantize(expected, OPENVLA_NF4) == 28
    weights = dict(plain_weights(expected))
    assert all(torch.equal(weight, weights[name]) for name, weight in plain_weights(loaded))


def test_fp16_on_a_cpu_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="use bf16 or fp32"):
        load(tmp_path / "nowhere", base="fp16")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../elsewhere/model.safetensors", "sub/model.safetensors", "..safetensors/../a", "model.bin", ".hidden", "", 3],
)
def test_an_index_names_files_beside_it_only(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": name}}))
    with pytest.raises(ValueError, match=r"index\.json names .*no file of weights beside it"):
        load(folder)


@pytest.mark.parametrize("record", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_a_damaged_index_is_named(folder, record):
    (folder / "model.safetensors.index.json").write_text(record)
    with pytest.raises(ValueError, match=r"index\.json (has no weight_map|holds a list|is damaged)"):
        load(folder)


def test_a_tensor_lies_in_one_file(folder):
    shutil.copy(folder / "model.safetensors", folder / "again.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "again.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"lies in model\.safetensors and in another file"):
        load(folder)


def test_shards_are_the_same_model_and_have_the_same_hash(folder):
    whole, before = load(folder).state_dict(), content_hash(folder)
    split_into_shards(folder)
    assert content_hash(folder) == before
    shards = load(folder).state_dict()
    assert all(torch.equal(tensor, shards[name]) for name, tensor in whole.items())


def test_the_hash_knows_every_bit_and_every_name(folder):
    hashes = {content_hash(folder)}

    def flip_last_bit(tensors):
        name = "language_model.lm_head.weight"
        tensors[name].view(torch.int16)[-1, -1] ^= 1
        return tensors

    rewrite(folder, flip_last_bit)
    hashes.add(content_hash(folder))
    rewrite(folder, lambda tensors: {name.replace("lm_head", "head"): tensor for name, tensor in tensors.items()})
    hashes.add(content_hash(folder))
    assert len(hashes) == 3


def without(tensors, name):
    return {other: tensor for other, tensor in tensors.items() if other != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: without(tensors, "projector.fc1.bias"),
            r"1 tensors missing \(first \['projector.fc1.bias'\]\), 0 left over",
        ),
        (
            lambda tensors: tensors | {"extra.weight": torch.zeros(1)},
            r"0 tensors missing .*, 1 left over \(first \['extra.weight'\]\)",
        ),
        (lambda tensors: tensors | {"projector.fc1.bias": torch.zeros(3)}, r"projector.fc1.bias has shape \(3,\).*says \(192,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_file_cut_short_is_refused(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut short.*copy or download it again"):
        load(folder)


def test_a_missing_file_is_named(folder):
    for name, read in (("tokenizer.json", load_tokenizer), ("model.safetensors", load), ("config.json", load)):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            read(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(folder / "nowhere")


def test_another_architecture_is_refused(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llava"}))
    with pytest.raises(ValueError, match="model_type='llava'"):
        load(folder)


def test_a_failed_save_leaves_nothing_behind(tmp_path, tiny_model, tiny_tokenizer, tiny_contract, monkeypatch):
    def disk_full(*_arguments, **_options):
        raise OSError("no space left")

    monkeypatch.setattr(saving, "write_weights", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path / "base", tiny_model, tiny_tokenizer, tiny_contract)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(folder, tiny_model, tiny_tokenizer, tiny_contract):
    before = content_hash(folder)
    with pytest.raises(ValueError, match="exists and nothing is overwritten"):
        save_checkpoint(folder, tiny_model, tiny_tokenizer, tiny_contract)
    assert content_hash(folder) == before


def test_a_4_bit_model_is_saved_dequantised(folder, tiny_tokenizer, tiny_contract):
    model = load(folder, base="nf4")
    save_checkpoint(folder.parent / "plain", model, tiny_tokenizer, tiny_contract)
    tensors = load_file(folder.parent / "plain" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(torch.equal(tensors[name], weight) for name, weight in plain_weights(model))


def test_a_new_folder_appears_only_when_its_block_ends_well(tmp_path):
    with new_folder(tmp_path / "good") as temporary:
        (temporary / "file").write_text("content")
        assert not (tmp_path / "good").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["good", "file"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "bad"):
        raise KeyboardInterrupt
    assert not (tmp_path / "bad").exists()


def test_the_tokenizer_of_old_transformers_is_told_its_inputs(folder):
    """Its class of that name would add token types, which the original's `predict_action` refuses (transformers 4.40.1)."""
    record = json.loads((folder / "tokenizer_config.json").read_text())
    assert record["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert record["model_input_names"] == ["input_ids", "attention_mask"]
