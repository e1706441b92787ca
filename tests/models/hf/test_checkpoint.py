"""Saved, loaded again, adapted and merged: the same function, under the names that transformers reads."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from vla_tune.adapters import Full, Lora
from vla_tune.data.collate import Batch
from vla_tune.models.base import Checkpoint
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.hf import HFVLA, AppendedRows, HFCheckpoint, ReservedRows
from vla_tune.models.nf4 import num_quantized
from vla_tune.models.openvla.additions import Film
from vla_tune.models.precision import stored_format, weight_report
from vla_tune.schema import Contract
from vla_tune.tokens import uniform_edges

TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture
def batch(checkpoint: HFCheckpoint, batch_for: Callable[[HFCheckpoint], Batch]) -> Batch:
    return batch_for(checkpoint)


@pytest.fixture
def contract(checkpoint: HFCheckpoint, contract_for: Callable[..., Contract]) -> Contract:
    return contract_for(checkpoint)


@pytest.fixture
def head(checkpoint: HFCheckpoint, contract: Contract) -> AutoregressiveTokenHead:
    return AutoregressiveTokenHead(checkpoint.interface(contract).space)


def trained(model: HFVLA, head: AutoregressiveTokenHead, batch: Batch, *, steps: int = 6) -> list[float]:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, 5e-3)
    losses = []
    for _ in range(steps):
        loss = head.over(model).loss(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def logits(model: HFVLA, batch: Batch) -> torch.Tensor:
    return model.eval().vocabulary_logits(model(batch)[batch.attention_mask])


def merged(
    checkpoint: HFCheckpoint, tensors: dict[str, torch.Tensor], contract: Contract, folder: Path, *, base: str
) -> HFCheckpoint:
    folder.mkdir()
    checkpoint.write(folder, tensors, contract)
    return HFCheckpoint.merged(str(folder), base=base)


def test_lora_learns_is_saved_read_and_merged(
    checkpoint: HFCheckpoint,
    contract: Contract,
    head: AutoregressiveTokenHead,
    batch: Batch,
    tmp_path: Path,
    merge_in_memory,
    wanted,
):
    assert isinstance(checkpoint, Checkpoint)
    adapter = Lora(rank=4, alpha=8, targets=TARGETS, base="fp32")
    torch.manual_seed(0)
    model, untouched = checkpoint.load(device="cpu"), checkpoint.load(device="cpu")
    report = adapter.attach(model)
    assert report.modules["language_model"] == 2 * len(TARGETS)
    assert report.modules["action_rows"] > 0, "rows that nothing was trained on learn without being asked for"
    torch.testing.assert_close(logits(model, batch), logits(untouched, batch), **CLOSE)
    losses = trained(model, head, batch)
    assert losses[-1] < 0.9 * losses[0]
    adapter.save(tmp_path / "adapter", model, base_hash=checkpoint.content_hash())
    again = checkpoint.load(device="cpu")
    adapter.attach(again)
    adapter.load(tmp_path / "adapter", again, base_hash=checkpoint.content_hash())
    torch.testing.assert_close(logits(again, batch), logits(model, batch), **CLOSE)

    one = merged(checkpoint, merge_in_memory(adapter, model, dtype=torch.float32), contract, tmp_path / "merged", base="fp32")
    final = one.load(device="cpu")
    torch.testing.assert_close(logits(final, batch), logits(model, batch), **CLOSE)
    assert torch.equal(head.over(final).raw(prompt_of(batch)), head.over(model).raw(prompt_of(batch)))
    assert Contract.load(tmp_path / "merged") == contract
    assert stored_format(tmp_path / "merged") == "fp32"
    assert one.part(wanted(contract.embodiment, uniform_edges(32))).record == contract.model
    published = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **batch.token_inputs}
    theirs = published.eval()(**inputs, **batch.vision_inputs).logits[batch.attention_mask]
    torch.testing.assert_close(logits(model, batch), theirs.detach(), **CLOSE)


def test_a_merged_folder_names_its_weights_as_the_base_does(
    checkpoint: HFCheckpoint, contract: Contract, tmp_path: Path, merge_in_memory
):
    tensors = merge_in_memory(Full(), checkpoint.load(device="cpu"), dtype=torch.bfloat16)
    merged(checkpoint, tensors, contract, tmp_path / "merged", base="bf16")
    before, after = load_file(checkpoint.path / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert stored_format(tmp_path / "merged") == "bf16"
    assert before.keys() == after.keys()
    grown = {name for name in before if before[name].shape != after[name].shape}
    assert len(grown) in (1, 2), "the vocabulary alone"
    for name in before.keys() - grown:
        assert torch.equal(before[name].bfloat16(), after[name])
    tensors.pop(next(name for name in tensors if name.endswith("q_proj.weight")))
    with pytest.raises(ValueError, match=r"1 names differ.*q_proj"):
        checkpoint.write(tmp_path / "merged", tensors, contract)


def test_a_4_bit_base_learns_and_is_merged(
    checkpoint: HFCheckpoint, contract: Contract, head: AutoregressiveTokenHead, batch: Batch, tmp_path: Path, merge_in_memory
):
    checkpoint, adapter = replace(checkpoint, base="nf4"), Lora(rank=4, alpha=8, targets=TARGETS, base="nf4")
    torch.manual_seed(0)
    model = checkpoint.load(device="cpu")
    assert num_quantized(model) == 2 * 7, "the linear layers of both blocks of the language model"
    assert {tower.name: tower.modules_4bit for tower in weight_report(model)}["language_model"] == 2 * 7
    adapter.attach(model)
    with torch.autocast("cpu", torch.bfloat16):
        losses = trained(model, head, batch)
    assert losses[-1] < 0.9 * losses[0]
    one = merged(checkpoint, merge_in_memory(adapter, model, dtype=torch.float32), contract, tmp_path / "merged", base="fp32")
    with torch.autocast("cpu", torch.bfloat16):
        live, found = logits(model, batch), logits(one.load(device="cpu"), batch)
    assert (live - found).abs().mean() < 0.02 * live.std()


def test_appended_rows_begin_near_the_mean_and_alike(checkpoint: HFCheckpoint):
    model, again = checkpoint.load(device="cpu"), checkpoint.load(device="cpu")
    rows = model.action_rows.inputs.weight
    existing = model.network.get_input_embeddings().weight[: -len(rows)]
    assert torch.equal(rows, again.action_rows.inputs.weight), "the seed fixes them"
    assert (rows - existing.mean(dim=0)).abs().max() < existing.std(dim=0).max()
    steps = (rows[1:] - rows[:-1]).norm(dim=1).mean()
    assert steps < 0.7 * (rows[len(rows) // 2 :] - rows[: len(rows) // 2]).norm(dim=1).mean()
    other = replace(checkpoint, rows=AppendedRows(count=len(rows), seed=1))
    assert not torch.equal(rows, other.load(device="cpu").action_rows.inputs.weight)
    assert other.content_hash() != checkpoint.content_hash()


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_reserved_rows_change_nothing_until_they_learn(
    name: str, families, checkpoint_of: Callable[..., HFCheckpoint], contract_for, batch_for, tmp_path: Path, merge_in_memory
):
    reserved = checkpoint_of(families[name], rows=ReservedRows(size=700, count=32))
    batch, contract, model = batch_for(reserved), contract_for(reserved), reserved.load(device="cpu")
    assert reserved.vocabulary_size == 700
    assert len(model.network.get_input_embeddings().weight) == 720
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **batch.token_inputs}
    theirs = model.network(**inputs, **batch.vision_inputs).logits[batch.attention_mask]
    torch.testing.assert_close(logits(model, batch), theirs.detach(), **CLOSE)

    adapter = Lora(rank=4, alpha=8, targets=TARGETS, base="fp32")
    adapter.attach(model)
    head = AutoregressiveTokenHead(reserved.interface(contract).space)
    trained(model, head, batch)
    one = merged(reserved, merge_in_memory(adapter, model, dtype=torch.float32), contract, tmp_path / "merged", base="fp32")
    torch.testing.assert_close(logits(one.load(device="cpu"), batch), logits(model, batch), **CLOSE)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == 720


def test_special_tokens_that_are_named_may_be_codes(families, checkpoint_of, batch_for, wanted, tiny_contract):
    first = checkpoint_of(families["paligemma"]).processor.tokenizer.convert_tokens_to_ids("<loc0992>")
    rows = ReservedRows(size=first + 32, count=32)
    with pytest.raises(ValueError, match=rf"32 of the ids.*{first} = '<loc0992>'.*rows.tokens, or append rows"):
        checkpoint_of(families["paligemma"], rows=rows).part(wanted(tiny_contract.embodiment, uniform_edges(32)))
    named = checkpoint_of(families["paligemma"], rows=replace(rows, tokens=["<loc*>"]))
    labels = batch_for(named).labels
    assert ((labels >= first) & (labels < first + 32)).sum() == 3 * 8


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm"])
def test_rows_that_text_uses_are_refused(name: str, families, checkpoint_of, wanted, tiny_contract):
    text = checkpoint_of(families[name]).processor.tokenizer
    with pytest.raises(ValueError, match=r"3 of the ids \d+ to \d+, meant for action codes, are the tokenizer's"):
        checkpoint_of(families[name], rows=ReservedRows(size=len(text) - 1 + 1, count=3)).part(
            wanted(tiny_contract.embodiment, uniform_edges(2))
        )


def test_more_rows_than_the_model_has_are_refused(families, checkpoint_of: Callable[..., HFCheckpoint]):
    with pytest.raises(ValueError, match="the model has 720 rows"):
        checkpoint_of(families["qwen2_5_vl"], rows=ReservedRows(size=721, count=32)).load(device="cpu")


def test_missing_and_surplus_weights_are_refused(family, folder_of, checkpoint_of, tmp_path: Path):
    for name in folder_of(family).iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    tensors["surplus"] = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit the configuration \(.*missing_keys.*up_proj.*unexpected_keys.*surplus"):
        checkpoint_of(family, folder=str(tmp_path)).load(device="cpu")


def test_additions_are_openvlas():
    options = {"height": 64, "width": 64, "layout": "chat", "image_options": {}, "prompt": "{instruction}"}
    with pytest.raises(ValueError, match=r"film: only OpenVLA models take additions; .* choose head=autoregressive"):
        HFCheckpoint(folder="x", **options, rows=ReservedRows(size=8, count=4), additions={"film": Film()})


def test_codes_of_other_rows_are_refused_before_weights_are_read(families, checkpoint_of, contract_for, monkeypatch):
    checkpoint = checkpoint_of(families["smolvlm"])
    contract = contract_for(checkpoint)
    more = contract.model["action_tokens"] | {"vocabulary_size": 10**6}
    monkeypatch.setattr(HFCheckpoint, "load", lambda *_, **__: pytest.fail("its weights were read"))
    with pytest.raises(ValueError, match=r"the 32 ids below 1000000, those of .* take both from one training run"):
        checkpoint.interface(replace(contract, model=dict(contract.model) | {"action_tokens": more}))
