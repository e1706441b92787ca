"""Each class of models: what it reads, and that decoding with keys and values is the function that was trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from vla_tune.adapters import Adapter, Lora, PrefixTuning, PTuning
from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA
from vla_tune.models.graphs import compiled_graphs, graphed
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.heads.codes import before
from vla_tune.models.hf import HFVLA, HFCheckpoint
from vla_tune.schema import Contract
from vla_tune.tokens import IGNORED

TARGETS = Path(__file__).parents[3] / "conf" / "targets"
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture
def model(checkpoint: HFCheckpoint) -> HFVLA:
    return checkpoint.load(device="cpu")


@pytest.fixture
def batch(checkpoint: HFCheckpoint, batch_for: Callable[[HFCheckpoint], Batch]) -> Batch:
    return batch_for(checkpoint)


@pytest.fixture
def head(checkpoint: HFCheckpoint, contract_for: Callable[..., Contract]) -> AutoregressiveTokenHead:
    return AutoregressiveTokenHead(checkpoint.interface(contract_for(checkpoint)).space)


def row_of(batch: Batch, row: int, length: int) -> Batch:
    """The first `length` ids of one row, without padding."""
    counts = {name: len(value) // len(batch) for name, value in batch.vision_inputs.items()}
    cut = {name: value[counts[name] * row : counts[name] * (row + 1)] for name, value in batch.vision_inputs.items()}
    return Batch(
        input_ids=batch.input_ids[row : row + 1, :length],
        attention_mask=torch.ones(1, length, dtype=torch.bool),
        placeholders=batch.placeholders[row : row + 1, :length],
        prompt_length=batch.prompt_length[row : row + 1],
        parallel=False,
        padded=False,
        state=batch.state[row : row + 1],
        vision_inputs=cut,
        token_inputs={name: value[row : row + 1, :length] for name, value in batch.token_inputs.items()},
    )


@torch.no_grad()
def test_it_is_the_model_of_transformers(model: HFVLA, batch: Batch):
    assert isinstance(model, VLA)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **batch.token_inputs}
    theirs = model.network(**inputs, **batch.vision_inputs).logits[batch.attention_mask]
    torch.testing.assert_close(model.vocabulary_logits(model(batch)[batch.attention_mask]), theirs, **CLOSE)


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(None, id="none"),
        pytest.param(PrefixTuning(count=3, base="fp32"), id="prefix", marks=pytest.mark.ci),
        pytest.param(PTuning(count=3, base="fp32"), id="p_tuning", marks=pytest.mark.ci),
    ],
)
@torch.no_grad()
def test_cached_decoding_of_a_batch_is_the_whole_pass_of_each_row(
    model: HFVLA, head: AutoregressiveTokenHead, batch: Batch, adapter: Adapter | None
):
    before = model(batch)
    if adapter is not None:
        adapter.attach(model)
        assert not torch.allclose(model(batch)[batch.attention_mask], before[batch.attention_mask], atol=1e-3)
        assert all(parameter.requires_grad for parameter in model.action_rows.parameters())
    assert len(set(batch.prompt_length.tolist())) > 1
    prompt = prompt_of(batch)
    codes = batch.input_ids.masked_fill(batch.labels == IGNORED, -1)
    state, steps = model.prefill(prompt), []
    for step in range(8):
        steps.append(state.hidden)
        ids = torch.stack([row[row >= 0][step] for row in codes])
        state = model.advance(ids, state)
    for row in range(len(batch)):
        first = int(batch.prompt_length[row])
        for step, hidden in enumerate(steps):
            alone = model(row_of(batch, row, first + step))[0, -1]
            torch.testing.assert_close(hidden[row], alone, **CLOSE)
        torch.testing.assert_close(model(batch)[row, first - 1 : first + 7], torch.stack([each[row] for each in steps]), **CLOSE)


@torch.no_grad()
def test_rows_of_the_head_are_computed_alone(model: HFVLA, head: AutoregressiveTokenHead, batch: Batch):
    hidden = model(batch)[0]
    rows = torch.as_tensor([*head.space.tokenizer.allowed_ids, head.space.stop_id])
    torch.testing.assert_close(model.vocabulary_logits(hidden, rows), model.vocabulary_logits(hidden)[:, rows], **CLOSE)


@torch.no_grad()
def test_padding_and_company_change_nothing(model: HFVLA, head: AutoregressiveTokenHead, batch: Batch):
    longer = {name: F.pad(value, (0, 7)) for name, value in batch.token_inputs.items()}
    assert batch.labels is not None
    padded = replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, 7), value=5),
        attention_mask=F.pad(batch.attention_mask, (0, 7)),
        placeholders=F.pad(batch.placeholders, (0, 7)),
        labels=F.pad(batch.labels, (0, 7), value=IGNORED),
        token_inputs=longer,
        padded=True,
    )
    torch.testing.assert_close(head.over(model).loss(padded).per_label, head.over(model).loss(batch).per_label, **CLOSE)
    for row in range(len(batch)):
        length = int(batch.attention_mask[row].sum())
        torch.testing.assert_close(model(batch)[row, :length], model(row_of(batch, row, length))[0], **CLOSE)


def test_codes_are_learned_and_then_decoded(model: HFVLA, head: AutoregressiveTokenHead, batch: Batch):
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        result = head.over(model).loss(batch)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
    assert result.correct.float().mean() > 0.95
    assert batch.labels is not None
    labels = torch.stack([row[row != IGNORED][:-1] for row in batch.labels])
    decoded = head.over(model.eval()).raw(prompt_of(batch))
    assert (decoded == labels).float().mean() > 0.95
    assert model.action_rows.inputs.weight.grad is not None
    assert model.action_rows.outputs.weight.grad is not None
    assert before(batch.labels != IGNORED).sum() == 3 * 9


def test_it_is_no_cuda_graph(model: HFVLA, head: AutoregressiveTokenHead):
    assert head.over(model).replayable, "the head alone would not refuse"
    for launch in (graphed, compiled_graphs):
        with pytest.raises(ValueError, match="HFVLA cannot be a CUDA graph: transformers reads back"):
            launch(head.over(model).raw, model)


def test_a_vocabulary_that_learns_for_nothing_is_said(model: HFVLA) -> None:
    options = {"rank": 2, "alpha": 4, "base": "fp32", "targets": ["q_proj"]}
    embedding = model.get_input_embeddings().weight
    report = Lora(**options, learned_in_full=["embed_tokens"]).attach(model)
    assert report.vocabulary == embedding.numel()
    assert f"{embedding.numel():,} of them are the whole vocabulary" in str(report)


EYES = {
    "qwen2_5_vl": "vision_qwen",
    "qwen3_vl": "vision_qwen",
    "paligemma": "vision_tower",
    "smolvlm": "vision_model",
    "internvl": "vision_tower",
}


def test_a_preset_lets_the_eyes_learn(family, model: HFVLA) -> None:
    """And that for OpenVLA's eyes is refused with what there is."""
    presets = {name: OmegaConf.load(TARGETS / f"{name}.yaml") for name in ("vision", EYES[family.name])}
    options = {"rank": 2, "alpha": 4, "base": "fp32"}
    with pytest.raises(ValueError, match=r"the model has no vision_backbone; its parts are .*targets@adapter="):
        Lora(**options, **presets["vision"]).attach(model)
    report = Lora(**options, **presets[EYES[family.name]]).attach(model)
    (tower,) = presets[EYES[family.name]].towers
    assert {name for name, count in report.modules.items() if count} == {tower, "action_rows"}
    assert report.modules[tower] >= 4
