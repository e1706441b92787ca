import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_tune.tokens import ActionTokenizer, FastTokenizer, action_tokenizer, fit_fast
from vla_tune.tokens.pieces import Pieces

HORIZON, DIMENSION = 6, 3
chunks = arrays(np.float64, (HORIZON, DIMENSION), elements=st.floats(-1, 1))


class Smooth:
    """Sines with noise, as training data."""

    chunks = np.clip(
        np.sin(np.linspace(0, 3, HORIZON)[None, :, None] * np.random.default_rng(0).normal(1, 1, (300, 1, DIMENSION)))
        + np.random.default_rng(1).normal(0, 0.05, (300, HORIZON, DIMENSION)),
        -1,
        1,
    )
    counted = np.ones(chunks.shape, dtype=bool)


TOKENIZERS = {
    "one byte a symbol": fit_fast(256, 10.0, vocabulary_size=1000, actions=Smooth()),
    "two bytes": fit_fast(512, 100.0, vocabulary_size=1000, actions=Smooth()),
    "three bytes": fit_fast(512, 900.0, vocabulary_size=1000, actions=Smooth()),
}
"""At 100, a symbol beyond 127 takes two bytes and tokens may cut it; at 900, three."""


def of(arrays: dict[str, np.ndarray], name: str, row: int) -> np.ndarray:
    """Tokens of a chunk; they are stored one after the other."""
    ends = np.cumsum(arrays[f"{name}_len"])
    return arrays[f"{name}_flat"][ends[row] - arrays[f"{name}_len"][row] : ends[row]]


def test_tokens_and_actions_are_the_original_ones(published: FastTokenizer, golden_arrays: dict[str, np.ndarray]):
    lengths = []
    for row, chunk in enumerate(golden_arrays["test"]):
        codes = published.encode(chunk)
        assert (31999 - codes == of(golden_arrays, "tokens", row)).all()
        assert (published.encode(chunk.astype(np.float32)) == codes).all()
        symbols = published.symbols_of(chunk)
        assert (symbols + published.record.min_token == golden_arrays["dct_quantised"][row]).all()
        decoded = published.decode(codes, action_dimension=7)
        assert np.abs(decoded - golden_arrays["decoded"][row]).max() <= 1e-12
        lengths.append(len(codes))
    assert np.mean(lengths) == pytest.approx(22.958333333333332)


def test_sequences_that_the_original_decodes_as_zeros_are_refused(published: FastTokenizer, golden: dict[str, Any]):
    assert set(golden["malformed"]) == {"truncated_by_one", "one_extra", "empty"}
    for case in golden["malformed"].values():
        assert case["error"], "the original printed this and went on with zeros"
        with pytest.raises(ValueError, match=r"codes stand for .* coefficients, a chunk of 10 actions of 7 dimensions has 70"):
            published.decode(31999 - np.array(case["tokens"], dtype=np.int64), action_dimension=7)


def test_chunks_that_the_original_distorts_are_refused(published: FastTokenizer, golden_arrays: dict[str, np.ndarray]):
    """Five times too large: clipped below, and symbols without a token dropped."""
    for chunk in golden_arrays["big"]:
        with pytest.raises(ValueError, match=r"no symbol for \(it knows 58 between -29 and 28\): fit it on data"):
            published.encode(chunk)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(chunk=chunks)
def test_every_chunk_comes_back_within_half_a_step(name: str, chunk: np.ndarray):
    tokenizer = TOKENIZERS[name]
    codes = tokenizer.encode(chunk)
    decoded = tokenizer.decode(codes, action_dimension=DIMENSION)
    bound = np.sqrt(HORIZON) / (2 * tokenizer.record.scale)
    assert (np.linalg.norm(decoded - chunk, axis=0) <= bound + 1e-9).all()
    assert 0 < len(codes) <= tokenizer.num_codes(HORIZON, DIMENSION)
    assert (tokenizer.encode(decoded) == codes).all(), "the middle of a step is encoded as itself"


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_any_allowed_walk_ends_in_a_chunk(name: str, data: st.DataObject):
    tokenizer, codes = TOKENIZERS[name], []
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    while len(allowed := tokenizer.allowed_next(codes, horizon=HORIZON, action_dimension=DIMENSION)):
        assert len(codes) < tokenizer.num_codes(HORIZON, DIMENSION)
        codes.append(int(rng.choice(allowed)))
    assert tokenizer.decode(np.array(codes), action_dimension=DIMENSION).shape == (HORIZON, DIMENSION)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(chunk=chunks)
def test_an_encoding_is_an_allowed_walk(name: str, chunk: np.ndarray):
    tokenizer = TOKENIZERS[name]
    codes = tokenizer.encode(chunk).tolist()
    for number, code in enumerate(codes):
        assert code in tokenizer.allowed_next(codes[:number], horizon=HORIZON, action_dimension=DIMENSION)
    assert not len(tokenizer.allowed_next(codes, horizon=HORIZON, action_dimension=DIMENSION))


def test_what_is_not_allowed_cannot_be_completed(published: FastTokenizer):
    """A refused token overshoots, or is none that the encoder writes; and nothing follows what is no action code."""
    size = {"horizon": 2, "action_dimension": 7}
    long = max(range(1024), key=lambda token: len(published._pieces.texts[token]))
    assert len(published._pieces.texts[long]) > 14
    first = published.allowed_next([], **size)
    refused = 31999 - np.setdiff1d(published.allowed_ids, first)
    assert long in refused
    raw = {token for token in range(1024) if not published._pieces.own[token]}
    assert raw, "the original's alphabet holds symbols that its encoder never writes"
    assert {token for token in refused if len(published._pieces.texts[token]) <= 14} == raw
    for codes in ([5], [32000], [31999 - 60, 31999 - 2000]):
        assert not len(published.allowed_next(codes, **size))


def test_the_grammar_is_quick(published: FastTokenizer, monkeypatch: pytest.MonkeyPatch):
    """Every token is walked through once for each way in which a symbol can be left open, and never again."""
    walk, walked = Pieces._walk, []

    def counting(self: Pieces, begun: bytes, text: bytes) -> tuple[int, bool] | None:
        walked.append(begun)
        return walk(self, begun, text)

    monkeypatch.setattr(Pieces, "_walk", counting)
    tokenizer, size = FastTokenizer(published.record), {"horizon": 10, "action_dimension": 7}
    for chunk in np.random.default_rng(0).uniform(-0.3, 0.3, (10, 10, 7)):
        codes = tokenizer.encode(chunk).tolist()
        for end in range(len(codes)):
            assert codes[end] in tokenizer.allowed_next(codes[:end], **size)
    assert len(walked) <= len(tokenizer._pieces.texts) * len(set(walked))


def test_it_is_an_action_tokenizer_that_a_contract_keeps(published: FastTokenizer):
    assert isinstance(published, ActionTokenizer)
    again = action_tokenizer(published.to_record())
    assert isinstance(again, FastTokenizer)
    assert again.to_record() == published.to_record()
    assert not again.free
    assert again.num_codes(10, 7) == 70
    assert TOKENIZERS["two bytes"].num_codes(10, 7) == 140
    assert again.allowed_ids.tolist() == list(range(31999, 30975, -1))


def test_a_worker_process_gets_the_same_tokenizer(published: FastTokenizer, golden_arrays: dict[str, np.ndarray]):
    published.encode(golden_arrays["test"][0])
    again = pickle.loads(pickle.dumps(published))
    assert (again.encode(golden_arrays["test"][0]) == published.encode(golden_arrays["test"][0])).all()


def test_hard_targets_are_one_hot_and_soft_ones_are_refused(published: FastTokenizer):
    assert (published.target_distributions(0.0) == np.eye(1024)).all()
    with pytest.raises(ValueError, match=r"deviation=2.0.*set head.deviation=0"):
        published.target_distributions(2.0)


def test_malformed_text_is_refused():
    """A byte that begins a symbol, and then one that begins another."""
    tokenizer = TOKENIZERS["two bytes"]
    lead = next(token for token, text in enumerate(tokenizer._pieces.texts) if text == b"\xc2")
    with pytest.raises(ValueError, match=r"their bytes are no text"):
        tokenizer.decode(999 - np.array([lead, lead]), action_dimension=DIMENSION)
    assert len(tokenizer.allowed_next([999 - lead], horizon=1, action_dimension=1)) > 0
    assert not len(tokenizer.allowed_next([999 - lead, 999 - lead], horizon=1, action_dimension=1))


@pytest.mark.parametrize("code", [30975, 32000, 0, -100])
def test_an_id_that_is_no_action_code_is_refused(published: FastTokenizer, code: int):
    with pytest.raises(ValueError, match=rf"\[{code}\] are not action codes \(30976\.\.31999\)"):
        published.decode(np.array([31950, code]), action_dimension=7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused(published: FastTokenizer, value: float):
    chunk = np.zeros((10, 7))
    chunk[3, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        published.encode(chunk)


def test_chunks_and_actions_of_another_shape_are_refused(published: FastTokenizer):
    with pytest.raises(ValueError, match=r"shape \(9, 7\), the tokenizer is for \(10, 7\)"):
        published.encode(np.zeros((9, 7)))
    with pytest.raises(ValueError, match=r"for actions of 7 dimensions, these have 6"):
        published.decode(published.encode(np.zeros((10, 7))), action_dimension=6)


def test_a_vocabulary_without_room_is_refused(published: FastTokenizer):
    with pytest.raises(ValueError, match=r"1024 ids has no room for 1024 action codes .*tokens=fast_256"):
        FastTokenizer(replace(published.record, vocabulary_size=1024))
    with pytest.raises(ValueError, match=r"scale=0.0"):
        FastTokenizer(replace(published.record, scale=0.0))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", None),
        ("added_tokens", [{"id": 1024, "content": "<pad>"}]),
    ],
)
def test_another_kind_of_tokenizer_is_refused(published: FastTokenizer, part: str, value: Any):
    bpe = json.dumps(json.loads(published.record.bpe) | {part: value})
    with pytest.raises(ValueError, match=r"FAST needs a BPE with a ByteLevel pre-tokenizer"):
        FastTokenizer(replace(published.record, bpe=bpe))


def test_ids_with_gaps_are_refused(published: FastTokenizer):
    record = json.loads(published.record.bpe)
    record["model"]["vocab"]["!"] = 5000
    with pytest.raises(ValueError, match=r"are not 0 to 1023"):
        FastTokenizer(replace(published.record, bpe=json.dumps(record)))
