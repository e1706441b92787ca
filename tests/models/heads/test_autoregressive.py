from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vla_tune.data.collate import Batch, collate
from vla_tune.models.capabilities import GivesLogProbabilities
from vla_tune.models.heads import AutoregressiveTokenHead, Head
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.heads.codes import ActionRows, before
from vla_tune.models.heads.decoding import Constrained, FullVocabulary, Watched
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.inputs import space_of
from vla_tune.models.openvla.prompt import CausalPrompt, prompt_ids
from vla_tune.tokens import IGNORED

STOP, PAD, NUM_CODES = 2, 512, 16
INSTRUCTIONS = ["lift the red block", "push the green block to the left", "touch blue"]


@pytest.fixture
def head(tiny_contract) -> AutoregressiveTokenHead:
    return AutoregressiveTokenHead(
        space_of(replace(tiny_contract, model=tiny_contract.model | {"decoding": "autoregressive"}), stop_id=STOP)
    )


@pytest.fixture(params=["causal", "bidirectional"])
def model(tiny_model: OpenVLA, request: pytest.FixtureRequest) -> OpenVLA:
    """Louder than freshly initialised, so that what it says depends on what it reads."""
    tiny_model.config.prompt_attention = request.param
    with torch.no_grad():
        for weight in tiny_model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return tiny_model.eval()


def samples(tokenizer, head: AutoregressiveTokenHead, *, training: bool) -> list[dict]:
    """Instructions of different lengths; the last chunk runs past its episode."""
    generator, prompt = np.random.default_rng(0), CausalPrompt(tokenizer, "In: {instruction}?\nOut:")
    rows = []
    for row, instruction in enumerate(INSTRUCTIONS):
        actions = generator.uniform(-1, 1, (4, 4)).astype(np.float32)
        mask = np.ones((4, 4), dtype=bool)
        mask[4 - row :] = row < 1
        sample = {
            "pixel_values": generator.normal(size=(1, 3, 64, 64)).astype(np.float32),
            "state": generator.uniform(-1, 1, 4).astype(np.float32),
            "instruction": instruction,
        }
        if training:
            codes = head.space.tokenizer.encode(actions)
            sample |= {"actions": actions, "action_mask": mask, "index": np.array([row, 0])}
            sample |= {"codes": codes, "code_mask": mask.reshape(-1)}
        rows.append(prompt(sample))
    return rows


@pytest.fixture
def learning(tiny_tokenizer, head) -> Batch:
    return collate(samples(tiny_tokenizer, head, training=True), pad_id=PAD)


@pytest.fixture
def acting(tiny_tokenizer, head) -> Batch:
    return collate(samples(tiny_tokenizer, head, training=False), pad_id=PAD, multiple=8)


@torch.no_grad()
def uncached(model: OpenVLA, batch: Batch, row: int, codes: list[int]) -> torch.Tensor:
    """Logits of the next id, from one forward pass over all of one row without padding."""
    ids = batch.input_ids[row][batch.attention_mask[row]].tolist() + codes
    alone = Batch(
        pixel_values=batch.pixel_values[row : row + 1],
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.bool),
        placeholders=torch.zeros(1, len(ids), dtype=torch.bool),
        prompt_length=batch.prompt_length[row : row + 1],
        parallel=False,
        padded=False,
        state=batch.state[row : row + 1],
    )
    return model.vocabulary_logits(model(alone)[:, -1])[0]


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_whole_sequence(model: OpenVLA, head, learning: Batch):
    assert isinstance(head, Head)
    assert learning.labels is not None
    result = head.over(model).loss(learning)
    logits = model.vocabulary_logits(model(learning)[:, :-1].flatten(0, 1))
    labels = learning.labels[:, 1:].flatten()
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")[labels != IGNORED]
    assert len(result.per_label) == (16 + 12 + 8) + 3, "codes within the episode, and the end of each sequence"
    torch.testing.assert_close(result.per_label, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(result.correct, (logits.argmax(dim=-1) == labels)[labels != IGNORED])


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"deviation": 2.0}, {"softmax": ActionRows()}], ids=["plain", "soft targets", "rows"])
def test_a_chunk_is_as_likely_as_its_codes_and_its_end_together(model: OpenVLA, head, learning: Batch, changes):
    """Whatever the loss is taught towards, by the softmax that it is computed with."""
    chosen = replace(head, **changes).over(model)
    assert isinstance(chosen, GivesLogProbabilities)
    losses = replace(head, **changes | {"deviation": 0.0}).over(model).loss(learning)
    expected = [-losses.per_label[losses.rows == row].sum() for row in range(3)]
    torch.testing.assert_close(chosen.log_probabilities(learning), torch.stack(expected), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_softmax_over_the_action_rows_leaves_the_text_out(model: OpenVLA, head, learning: Batch):
    assert learning.labels is not None
    rows = replace(head, softmax=ActionRows()).over(model).loss(learning)
    positions = learning.labels != IGNORED
    logits = model.vocabulary_logits(model(learning)[before(positions)])
    kept = torch.tensor([*range(256, 512), STOP])
    labels = learning.labels[positions]
    where = torch.tensor([kept.tolist().index(label) for label in labels.tolist()])
    torch.testing.assert_close(rows.per_label, F.cross_entropy(logits[:, kept], where, reduction="none"), atol=1e-5, rtol=1e-5)
    assert (rows.per_label < head.over(model).loss(learning).per_label).all()


@torch.no_grad()
def test_cached_batched_decoding_is_row_by_row_decoding_without_a_cache(model: OpenVLA, head, acting: Batch):
    assert len(set(acting.attention_mask.sum(dim=1).tolist())) == 3, "rows of different lengths"
    codes = Constrained()(model, acting, head.space).ids.tolist()
    allowed = torch.arange(256, 512)
    for row, chosen in enumerate(codes):
        assert len(chosen) == NUM_CODES
        for number, code in enumerate(chosen):
            logits = uncached(model, acting, row, chosen[:number])[allowed]
            best = logits.max()
            assert best - logits[code - 256] < 1e-3, "the code is the most likely one, up to rounding"
    assert len({tuple(row) for row in codes}) == 3


@torch.no_grad()
def test_states_with_and_without_a_cache_agree(model: OpenVLA, acting: Batch):
    state = model.prefill(acting)
    for step, code in enumerate((300, 400, 500)):
        expected = torch.stack([uncached(model, acting, row, [300, 400, 500][:step]) for row in range(3)])
        torch.testing.assert_close(model.vocabulary_logits(state.hidden), expected, atol=2e-4, rtol=1e-4)
        state = model.advance(torch.full((3,), code), state)


@torch.no_grad()
def test_rows_without_padding_are_read_the_same(model: OpenVLA, acting: Batch):
    ids = acting.input_ids[acting.attention_mask][:10].expand(3, -1)
    whole = replace(
        acting,
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        placeholders=torch.zeros_like(ids, dtype=torch.bool),
        padded=False,
    )
    longer = replace(
        whole,
        input_ids=F.pad(ids, (0, 5), value=PAD),
        attention_mask=F.pad(whole.attention_mask, (0, 5)),
        placeholders=F.pad(whole.placeholders, (0, 5)),
        padded=True,
    )
    states = [model.prefill(batch) for batch in (whole, longer)]
    for code in (300, 400, 500):
        torch.testing.assert_close(states[0].hidden, states[1].hidden, atol=1e-4, rtol=1e-4)
        states = [model.advance(torch.full((3,), code), state) for state in states]


def test_training_samples_are_decoded_from_their_prompt_alone(model: OpenVLA, head, learning: Batch, acting: Batch):
    prompt = prompt_of(learning)
    assert prompt.input_ids.shape[1] == max(learning.prompt_length)
    assert prompt.attention_mask.sum(dim=1).tolist() == learning.prompt_length.tolist()
    same = replace(learning, pixel_values=acting.pixel_values, state=acting.state)
    assert (head.over(model).act(same) == head.over(model).act(acting)).all()


def test_images_are_read_once_and_only_action_rows_of_the_head(model: OpenVLA, head, acting: Batch):
    seen = {"vision": 0, "head": 0}

    def count(name):
        return lambda *_: seen.update({name: seen[name] + 1})

    model.vision_backbone.register_forward_hook(count("vision"))
    model.language_model.lm_head.register_forward_hook(count("head"))
    actions = head.over(model).act(acting)
    assert actions.shape == (3, 4, 4)
    assert (np.abs(actions) <= 1).all()
    assert seen == {"vision": 1, "head": 0}
    replace(head, decoder=Watched()).over(model).act(acting)
    assert seen == {"vision": 2, "head": NUM_CODES}


@torch.no_grad()
def test_chosen_rows_of_the_head_are_those_of_the_whole(model: OpenVLA):
    hidden, rows = torch.randn(5, 192), torch.tensor([511, 3, 256])
    whole = model.vocabulary_logits(hidden)
    torch.testing.assert_close(model.vocabulary_logits(hidden, rows), whole[:, rows])
    model.language_model.lm_head = torch.nn.Sequential(model.language_model.lm_head)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(model.vocabulary_logits(hidden, rows), whole[:, rows])


def favour(model: OpenVLA, ids: slice) -> None:
    with torch.no_grad():
        model.language_model.lm_head.weight[ids] *= 100


def test_the_full_vocabulary_agrees_where_the_best_id_is_a_code(model: OpenVLA, head, acting: Batch):
    with torch.no_grad():
        model.language_model.lm_head.weight[:256] = 0
        model.language_model.lm_head.weight[512:] = 0
    free, bound = FullVocabulary()(model, acting, head.space), Constrained()(model, acting, head.space)
    watched = Watched()(model, acting, head.space)
    assert torch.equal(free.ids, bound.ids)
    assert torch.equal(watched.ids, bound.ids)
    assert bound.outside is None
    assert free.outside is not None
    assert watched.outside is not None
    torch.testing.assert_close(free.outside, watched.outside)
    assert free.outside.shape == (3, NUM_CODES)


def test_text_that_is_more_likely_is_seen_and_refused(model: OpenVLA, head, acting: Batch):
    quiet = head.over(model).outside_mass(acting)
    favour(model, slice(3, 256))
    loud = head.over(model).outside_mass(acting)
    assert loud.shape == (3,)
    assert (loud > 0.9).all()
    assert (loud > quiet).all()
    assert np.isfinite(head.over(model).act(acting)).all()
    with pytest.raises(ValueError, match="are not action codes"):
        replace(head, decoder=FullVocabulary()).over(model).act(acting)


def test_an_early_end_is_an_error_and_no_prompt_id_becomes_an_action(model: OpenVLA, head, acting: Batch):
    """The original takes the last ids of the sequence, prompt ids among them (golden `forced_eos_at_step3`)."""
    plain = model.vocabulary_logits

    class Ending:
        """Ends after three codes."""

        steps = 0

        def __call__(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
            logits = plain(hidden, rows)
            if rows is None:
                logits[:, :256] = -1e9
                if self.steps == 3:
                    logits[:, STOP] = 1e9
                self.steps += 1
            return logits

    model.vocabulary_logits = Ending()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="row 0: the model ended the sequence after 3 of 16 codes"):
        replace(head, decoder=FullVocabulary()).over(model).act(acting)
    assert np.isfinite(head.over(model).act(acting)).all()


@pytest.mark.ci  # it trains; the parallel head's like runs always
def test_learning_the_codes_makes_them_the_prediction(tiny_model: OpenVLA, head, learning: Batch):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), 1e-3)
    losses = []
    for _ in range(60):
        result = head.over(tiny_model).loss(learning)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert learning.actions is not None
    assert learning.action_mask is not None
    error = np.abs(head.over(tiny_model.eval()).act(learning) - learning.actions.numpy())[learning.action_mask.numpy()]
    assert np.median(error) <= 1 / 255 + 1e-6


def test_the_prompt_is_what_the_original_asks(tiny_tokenizer):
    ids = prompt_ids(tiny_tokenizer, "In: What action should the robot take to {instruction}?\nOut:", "Lift the RED block")
    assert ids[-1] == tiny_tokenizer.convert_tokens_to_ids("▁")
