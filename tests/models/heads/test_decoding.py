"""Decoding codes whose number depends on the chunk (FAST)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vla_tune.data.collate import Batch, collate
from vla_tune.models.heads import AutoregressiveTokenHead, ParallelTokenHead
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.heads.codes import EncodeActions
from vla_tune.models.heads.decoding import Constrained, FullVocabulary, Watched
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.inputs import space_of
from vla_tune.models.openvla.prompt import CausalPrompt
from vla_tune.schema import Contract, to_record
from vla_tune.tokens import IGNORED, FastTokenizer, fit_fast

STOP, PAD = 2, 512
INSTRUCTIONS = ("lift the red block", "push the green block to the left", "touch blue")


def motions(count: int) -> np.ndarray:
    """Chunks [N 4 4] from standing still to waving: few codes and many."""
    rng = np.random.default_rng(0)
    return (rng.uniform(-1, 1, (count, 4, 4)) * np.linspace(0, 1, count)[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module")
def fast() -> FastTokenizer:
    chunks = motions(200)
    return fit_fast(256, 10.0, vocabulary_size=512, actions=SimpleNamespace(chunks=chunks, counted=chunks < 2))


@pytest.fixture
def contract(tiny_contract: Contract, fast: FastTokenizer) -> Contract:
    return replace(
        tiny_contract, model=tiny_contract.model | {"decoding": "autoregressive", "action_tokens": to_record(fast.to_record())}
    )


@pytest.fixture
def head(contract: Contract) -> AutoregressiveTokenHead:
    return AutoregressiveTokenHead(space_of(contract, stop_id=STOP))


@pytest.fixture
def model(tiny_model: OpenVLA) -> OpenVLA:
    """Louder than freshly initialised, so that rows differ."""
    with torch.no_grad():
        for weight in tiny_model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return tiny_model.eval()


@pytest.fixture
def learning(contract: Contract, fast: FastTokenizer, tiny_tokenizer) -> Batch:
    """Three samples whose chunks have different numbers of codes."""
    rng, chunks, samples = np.random.default_rng(0), motions(3), []
    encode, prompt = EncodeActions(fast, 4), CausalPrompt(tiny_tokenizer, contract.model["prompt"])
    for row, instruction in enumerate(INSTRUCTIONS):
        sample = {
            "pixel_values": rng.normal(size=(1, 3, 64, 64)).astype(np.float32),
            "state": rng.uniform(-1, 1, 4).astype(np.float32),
            "instruction": instruction,
            "actions": chunks[row],
            "action_mask": np.arange(16).reshape(4, 4) < 12,
            "index": np.array([row, 0]),
        }
        samples.append(prompt(encode(sample)))
    return collate(samples, pad_id=PAD)


def test_a_batch_holds_chunks_of_different_lengths(learning: Batch, head, fast: FastTokenizer):
    assert learning.labels is not None
    lengths = [len(fast.encode(chunk)) for chunk in motions(3)]
    assert len(set(lengths)) == 3
    labelled = learning.labels != IGNORED
    assert labelled.sum(dim=1).tolist() == [length + 1 for length in lengths], "every code and the end, since codes mix all steps"
    for row, chunk in enumerate(motions(3)):
        assert learning.labels[row][labelled[row]].tolist() == [*fast.encode(chunk).tolist(), STOP]
    assert (~learning.attention_mask).sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_decoding_always_ends_in_chunks(tiny_model: OpenVLA, head, learning: Batch, fast: FastTokenizer, seed: int):
    """Also from a model that knows nothing; a finished row waits with the stop id."""
    torch.manual_seed(seed)
    for weight in tiny_model.parameters():
        weight.add_(torch.randn_like(weight) * 0.2)
    decoded = Constrained()(tiny_model.eval(), prompt_of(learning), head.space)
    for row in decoded.ids.tolist():
        codes = row[: row.index(STOP)] if STOP in row else row
        assert set(row[len(codes) :]) <= {STOP}
        assert not len(fast.allowed_next(codes, horizon=4, action_dimension=4))
    assert head.over(tiny_model).actions(decoded.ids).shape == (3, 4, 4)
    assert not head.over(tiny_model).replayable


@torch.no_grad()
def test_a_row_does_not_depend_on_its_company(model: OpenVLA, head, learning: Batch):
    prompt = prompt_of(learning)
    together = head.over(model).act(prompt)
    for row in range(3):
        rows = {name: tensor[row : row + 1] for name, tensor in prompt.tensors().items()}
        alone = Batch(**rows, parallel=False, padded=not bool(prompt.attention_mask[row].all()))
        assert head.over(model).act(alone)[0] == pytest.approx(together[row], abs=1e-6)


@torch.no_grad()
def test_the_mass_outside_is_measured(model: OpenVLA, head, learning: Batch):
    mass = head.over(model).outside_mass(learning)
    assert mass.shape == (3,)
    assert ((mass >= 0) & (mass <= 1)).all()
    watched = Watched()(model, prompt_of(learning), head.space)
    assert torch.equal(watched.ids, Constrained()(model, prompt_of(learning), head.space).ids)


class Saying:
    """A model's vocabulary logits that say `ids`, the same for every row."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.step = ids, 0

    def __call__(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        assert rows is None
        logits = torch.full((len(hidden), 576), -1e9)
        logits[:, self.ids[min(self.step, len(self.ids) - 1)]] = 1e9
        self.step += 1
        return logits


@torch.no_grad()
def test_the_full_vocabulary_may_end_where_the_chunk_does(model: OpenVLA, head, learning: Batch, fast: FastTokenizer):
    codes = fast.encode(motions(3)[1]).tolist()
    free = replace(head, decoder=FullVocabulary())
    model.vocabulary_logits = Saying([*codes, STOP])  # pyright: ignore[reportAttributeAccessIssue]
    expected = fast.decode(np.array(codes), action_dimension=4)
    assert (free.over(model).act(learning) == np.stack([expected] * 3)).all()


@torch.no_grad()
def test_the_full_vocabulary_is_held_to_the_chunk(model: OpenVLA, head, learning: Batch, fast: FastTokenizer):
    codes = fast.encode(motions(3)[1]).tolist()
    free = replace(head, decoder=FullVocabulary())
    for said, message in (
        ([*codes[:-1], STOP], f"row 0: the model ended the sequence after {len(codes) - 1} of"),
        ([*codes[:-1], 77], r"ids \[77\] are not action codes"),
        ([codes[0], 300, *[fast.allowed_ids.min()] * 20], "codes stand for|are no text|ended the sequence"),
    ):
        model.vocabulary_logits = Saying(list(map(int, said)))  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(ValueError, match=message):
            free.over(model).act(learning)


@pytest.mark.ci  # it trains; the parallel head's like runs always
def test_learning_the_codes_makes_them_the_prediction(tiny_model: OpenVLA, head, learning: Batch, fast: FastTokenizer):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), 1e-3)
    losses = []
    for _ in range(80):
        result = head.over(tiny_model).loss(learning)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert losses[-1] < 0.1 * losses[0]
    predicted = head.over(tiny_model.eval()).act(learning)
    expected = [fast.decode(fast.encode(chunk), action_dimension=4) for chunk in motions(3)]
    assert predicted == pytest.approx(np.stack(expected), abs=1e-9)


def test_a_parallel_head_refuses_them(contract: Contract):
    with pytest.raises(ValueError, match="codes of varying number cannot be predicted in parallel: choose head=autoregressive"):
        ParallelTokenHead(space_of(contract, stop_id=STOP))


def test_soft_targets_are_refused(head, tiny_model: OpenVLA, learning: Batch):
    with pytest.raises(ValueError, match=r"set head.deviation=0"):
        replace(head, deviation=2.0)


def test_after_its_own_codes_a_model_chooses_them_again(model, head, learning):
    own = head.over(model).raw(learning)
    assert torch.equal(head.over(model).after(learning, own), own)


def test_after_other_codes_it_chooses_what_is_allowed_there(model, head, fast, learning):
    other = head.over(model).raw(replace(learning, pixel_values=-learning.pixel_values))
    chosen = head.over(model).after(learning, other)
    assert chosen.shape == other.shape
    for row, said in zip(chosen.tolist(), other.tolist(), strict=True):
        complete = said.index(STOP) if STOP in said else len(said)
        for place in range(complete):
            allowed = fast.allowed_next(said[:place], horizon=4, action_dimension=4)
            assert row[place] in allowed
        assert row[complete:] == [STOP] * (len(row) - complete)
