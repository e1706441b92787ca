import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from vla_tune.tokens import FastTokenizer
from vla_tune.tokens.pieces import Pieces, byte_letters

SYMBOLS = [*map(chr, range(100, 300)), "ࠀ", "ࠁ"]
"""One, two and three bytes."""


def trained() -> str:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [byte_letters()[byte] for byte in sorted({byte for symbol in SYMBOLS for byte in symbol.encode()})]
    rng = np.random.default_rng(0)  # few symbols, so that their inner boundaries are merged too
    texts = ["".join(SYMBOLS[20 * index] for index in rng.integers(0, 10, 40)) + "".join(SYMBOLS[:100]) for _ in range(50)]
    tokenizer.train_from_iterator(texts, BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet))
    return tokenizer.to_str()


BPE = trained()
PIECES, LIBRARY = Pieces.read(BPE), Tokenizer.from_str(BPE)
texts = st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=12).map("".join)


def test_the_letters_are_those_of_gpt2():
    assert byte_letters() == bytes_to_unicode()


@given(text=texts)
def test_tokens_joined_are_the_text(text: str):
    tokens = LIBRARY.encode(text).ids
    assert PIECES.join(tokens).decode() == text == LIBRARY.decode(tokens)


@given(tokens=st.lists(st.integers(0, 399), max_size=6))
def test_any_tokens_are_decoded_as_the_library_does(published: FastTokenizer, tokens: list[int]):
    assert PIECES.join(tokens).decode(errors="replace") == LIBRARY.decode(tokens)
    original = Tokenizer.from_str(published.record.bpe)
    assert published._pieces.join(tokens).decode(errors="replace") == original.decode(tokens)


def test_symbols_are_what_the_alphabet_can_write():
    assert {ord(symbol) for symbol in SYMBOLS} <= PIECES.symbols
    assert ord("A") not in PIECES.symbols
    assert PIECES.bytes_per_symbol == 3
    assert any(text[0] & 0xC0 == 0x80 for text in PIECES.texts if len(text) > 1), "some tokens begin inside a symbol"


@given(data=st.data(), length=st.integers(1, 8))
def test_what_may_follow_is_exactly_what_can_be_completed(data: st.DataObject, length: int):
    """Against trying: a token is allowed if some known symbols fill its text up to `length`."""
    tokens: list[int] = []
    opened = {text[:end] for text in (chr(symbol).encode() for symbol in PIECES.symbols) for end in range(1, len(text))}
    while True:
        allowed = PIECES.next_tokens(tokens, length=length).tolist()
        for token in range(0, len(PIECES.texts), 7):
            assert (token in allowed) == completable(PIECES.join([*tokens, token]), length, opened)
        if not allowed:
            break
        tokens.append(data.draw(st.sampled_from(allowed)))
    text = PIECES.join(tokens).decode()
    assert len(text) == length
    assert {ord(symbol) for symbol in text} <= PIECES.symbols


def completable(text: bytes, length: int, opened: set[bytes]) -> bool:
    for cut in range(4):
        whole, rest = text[: len(text) - cut], text[len(text) - cut :]
        try:
            symbols = whole.decode()
        except UnicodeDecodeError:
            continue
        if not rest or rest in opened:
            return {ord(symbol) for symbol in symbols} <= PIECES.symbols and len(symbols) + bool(rest) <= length
    return False


def test_the_vocabulary_of_the_original_is_read_as_it_is(published: FastTokenizer, golden: dict[str, Any]):
    pieces = Pieces.read(published.record.bpe)
    assert len(pieces.texts) == golden["actual_vocab"]
    assert len(json.loads(published.record.bpe)["model"]["merges"]) == golden["n_merges"]
    assert pieces.symbols == set(range(58))


def test_a_model_of_another_kind_is_refused():
    record = json.loads(BPE)
    record["model"]["type"] = "WordPiece"
    with pytest.raises(ValueError, match="WordPiece"):
        Pieces.read(json.dumps(record))
