from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vla_tune.data.collate import Batch, collate
from vla_tune.models.base import ActionModel
from vla_tune.models.capabilities import GivesLogProbabilities
from vla_tune.models.heads import Head
from vla_tune.models.heads.codes import before
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.location import Located, WeighedLocation
from vla_tune.models.openvla.prompt import ParallelPrompt
from vla_tune.tokens import IGNORED

PAD = 512


def every_logit(model: OpenVLA, batch: Batch) -> torch.Tensor:
    """Logits of every position but the last, and so of what comes at every position but the first."""
    return model.language_model.lm_head(model(batch)).float()[:, :-1]


def with_location(batch: Batch, prompt: ParallelPrompt, labels: list[list[int]]) -> Batch:
    """`batch` with two location codes in front of each chunk."""
    assert batch.labels is not None
    rows = []
    for row, location in enumerate(labels):
        codes = np.array([*location, *batch.labels[row][batch.placeholders[row]].tolist()])
        rows.append(prompt({"instruction": "lift the red block", "codes": codes, "code_mask": codes != IGNORED}))
    texts = [
        sample
        | {"pixel_values": batch.pixel_values[row].numpy(), "state": batch.state[row].numpy()}
        | {"actions": np.zeros((4, 4), np.float32), "action_mask": np.ones((4, 4), bool), "index": np.array([row, 0])}
        for row, sample in enumerate(rows)
    ]
    return collate(texts, pad_id=PAD)


@torch.no_grad()
def test_hard_loss_is_the_plain_cross_entropy_of_the_whole_sequence(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch):
    assert isinstance(tiny_head, Head)
    assert tiny_batch.labels is not None
    result = tiny_head.over(tiny_model).loss(tiny_batch)
    labels = tiny_batch.labels[:, 1:].flatten()
    logits = every_logit(tiny_model, tiny_batch).flatten(0, 1)
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")[labels != IGNORED]
    assert len(result.per_label) == 16 + 12 + 8, "actions beyond an episode's end are not learned"
    torch.testing.assert_close(result.per_label, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, F.cross_entropy(logits, labels, ignore_index=IGNORED), atol=1e-5, rtol=1e-5)
    assert torch.equal(result.correct, (logits.argmax(dim=-1) == labels)[labels != IGNORED])


@torch.no_grad()
@pytest.mark.parametrize("deviation", [0.0, 3.0])
def test_a_chunk_is_as_likely_as_its_codes_together(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch, deviation: float):
    """Whatever the loss is taught towards."""
    model = replace(tiny_head, deviation=deviation).over(tiny_model)
    assert isinstance(model, GivesLogProbabilities)
    assert tiny_batch.labels is not None
    labels = tiny_batch.labels[:, 1:]
    likely = every_logit(tiny_model, tiny_batch).log_softmax(dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    expected = torch.where(labels == IGNORED, 0.0, likely).sum(dim=1)
    torch.testing.assert_close(model.log_probabilities(tiny_batch), expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_soft_loss_is_the_cross_entropy_with_a_gaussian_over_the_bins(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch):
    assert tiny_batch.labels is not None
    soft = replace(tiny_head, deviation=3.0).over(tiny_model).loss(tiny_batch)
    labels = tiny_batch.labels[:, 1:].flatten()
    counted = labels != IGNORED
    target = torch.zeros(int(counted.sum()), 576)
    for row, label in enumerate(labels[counted].tolist()):
        weights = torch.tensor([np.exp(-0.5 * ((code - label) / 3.0) ** 2) for code in range(256, 512)])
        target[row, 256:512] = (weights / weights.sum()).float()
    logits = every_logit(tiny_model, tiny_batch).flatten(0, 1)[counted]
    torch.testing.assert_close(soft.per_label, F.cross_entropy(logits, target, reduction="none"), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(soft.per_label, tiny_head.over(tiny_model).loss(tiny_batch).per_label, atol=1e-3)


@torch.no_grad()
def test_padding_changes_nothing(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch):
    def padded(tensor: torch.Tensor, fill: int | bool) -> torch.Tensor:
        return F.pad(tensor, (0, 9), value=fill)

    assert tiny_batch.labels is not None
    longer = replace(
        tiny_batch,
        input_ids=padded(tiny_batch.input_ids, PAD),
        attention_mask=padded(tiny_batch.attention_mask, False),
        placeholders=padded(tiny_batch.placeholders, False),
        labels=padded(tiny_batch.labels, IGNORED),
        padded=True,
    )
    for head in (tiny_head, replace(tiny_head, deviation=8.0)):
        torch.testing.assert_close(
            head.over(tiny_model).loss(longer).per_label, head.over(tiny_model).loss(tiny_batch).per_label, atol=1e-5, rtol=1e-5
        )
    assert torch.equal(tiny_head.over(tiny_model).raw(longer), tiny_head.over(tiny_model).raw(tiny_batch))
    seen = replace(longer, attention_mask=torch.ones_like(longer.attention_mask), padded=False)
    assert not torch.allclose(
        tiny_head.over(tiny_model).loss(seen).loss, tiny_head.over(tiny_model).loss(tiny_batch).loss, atol=1e-5
    )


@torch.no_grad()
def test_location_codes_are_learned_with_their_weight_and_not_decoded(
    tiny_model, tiny_head, tiny_batch, tiny_tokenizer, tiny_contract
):
    prompt = ParallelPrompt(tiny_tokenizer, tiny_contract.model["prompt"], num_codes=18)
    batch = with_location(tiny_batch, prompt, [[300, 301], [IGNORED, IGNORED], [400, 401]])
    tokenizer = tiny_head.space.tokenizer
    plain = replace(tiny_head, space=replace(tiny_head.space, tokenizer=Located(tokenizer, 2)))
    heavy = WeighedLocation(plain.over(tiny_model), 2, 5.0)
    light, weighted = plain.over(tiny_model).loss(batch).per_label, heavy.loss(batch).per_label
    assert isinstance(heavy, ActionModel)
    assert (heavy.act(batch) == plain.over(tiny_model).act(batch)).all()
    assert len(light) == 16 + 12 + 8 + 4
    ratio = weighted / light
    locations = [0, 1, 18 + 12, 18 + 12 + 1]
    assert ratio[locations].tolist() == pytest.approx([5.0] * 4, rel=1e-5)
    others = [index for index in range(len(ratio)) if index not in locations]
    assert ratio[others].tolist() == pytest.approx([1.0] * len(others))
    codes = plain.over(tiny_model).raw(batch)
    assert codes.shape == (3, 18)
    actions = plain.over(tiny_model).act(batch)
    assert actions.shape == (3, 4, 4)
    for row in range(3):
        assert (actions[row] == tokenizer.decode(codes[row, 2:].numpy(), action_dimension=4)).all()


def test_only_action_codes_are_decoded(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch):
    head = tiny_model.language_model.lm_head
    with torch.no_grad():
        head.weight[:256] *= 100  # text wins everywhere over the whole vocabulary
        head.weight[512:] *= 100
    whole = tiny_model.vocabulary_logits(tiny_model(tiny_batch)[before(tiny_batch.placeholders)])
    codes = tiny_head.over(tiny_model).raw(tiny_batch)
    free = whole.argmax(dim=-1)
    assert ((free < 256) | (free >= 512)).float().mean() > 0.9
    assert ((codes >= 256) & (codes < 512)).all()
    best = 256 + whole[:, 256:512].argmax(dim=-1)
    assert torch.equal(codes.flatten(), best)
    actions = tiny_head.over(tiny_model).act(tiny_batch)
    assert actions.shape == (3, 4, 4)
    assert (np.abs(actions) <= 1).all()


def test_the_state_before_a_position_predicts_it():
    positions = torch.tensor([[False, False, True, True, False], [False, True, False, False, True]])
    expected = [[False, True, True, False, False], [True, False, False, True, False]]
    assert before(positions).tolist() == expected


@pytest.mark.parametrize("deviation", [0.0, 8.0])
def test_every_used_weight_learns(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch, deviation: float):
    replace(tiny_head, deviation=deviation).over(tiny_model).loss(tiny_batch).loss.backward()
    unused = {name for name, weight in tiny_model.named_parameters() if weight.grad is None or not weight.grad.any()}
    behind = ("blocks.2.", "norm.", "fc_norm.")  # the second-to-last block, where features are taken
    assert unused == {
        name
        for name, _ in tiny_model.named_parameters()
        if name.startswith(tuple(f"vision_backbone.featurizer.{part}" for part in behind))
    }


def test_learning_the_codes_makes_them_the_prediction(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), 1e-3)
    results = []
    for _ in range(60):
        results.append(tiny_head.over(tiny_model).loss(tiny_batch))
        optimizer.zero_grad()
        results[-1].loss.backward()
        optimizer.step()
    assert results[-1].loss.item() < 0.3 * results[0].loss.item()
    assert results[-1].correct.float().mean() > 0.7
    assert tiny_batch.actions is not None
    assert tiny_batch.action_mask is not None
    error = np.abs(tiny_head.over(tiny_model).act(tiny_batch) - tiny_batch.actions.numpy())[tiny_batch.action_mask.numpy()]
    assert np.median(error) <= 1 / 255 + 1e-6


def test_a_batch_without_labels_has_no_loss(tiny_model: OpenVLA, tiny_head, tiny_batch: Batch):
    with pytest.raises(AssertionError, match="without labels"):
        tiny_head.over(tiny_model).loss(replace(tiny_batch, labels=None))
