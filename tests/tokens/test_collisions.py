from types import SimpleNamespace

import numpy as np
import pytest

from vla_tune.models.openvla.prompt import prompt_ids
from vla_tune.models.openvla.tiny import PROMPT
from vla_tune.tokens import BinTokenizer, check_collisions, fit_fast, uniform_edges
from vla_tune.tokens.base import ActionTokenizer

INSTRUCTIONS = ("lift the red block", "touch the blue block")


def bins(count: int) -> ActionTokenizer:
    return BinTokenizer(uniform_edges(count), 512)


@pytest.fixture
def check(tiny_tokenizer):
    def check_(tokens: ActionTokenizer, *instructions: str) -> None:
        for instruction in instructions:
            check_collisions(prompt_ids(tiny_tokenizer, PROMPT, instruction), instruction, tokens, tiny_tokenizer)

    return check_


def test_codes_beside_the_text_pass(check):
    check(bins(256), *INSTRUCTIONS)
    chunks = np.random.default_rng(0).uniform(-1, 1, (50, 4, 4))
    check(fit_fast(256, 10.0, vocabulary_size=512, actions=SimpleNamespace(chunks=chunks, counted=chunks < 2)), *INSTRUCTIONS)


def test_a_word_that_is_a_code_is_named(check, tiny_tokenizer):
    """400 codes reach down to id 112, where words are."""
    words = {tiny_tokenizer.convert_tokens_to_ids(piece) for piece in ("▁lift", "▁blue")}
    assert all(112 <= word < 256 for word in words)
    with pytest.raises(ValueError, match=r"'lift the red block' has ids that are action codes \(.*the 400 codes are 112 to 511"):
        check(bins(400), *INSTRUCTIONS)


def test_only_what_is_said_counts(check, tiny_tokenizer):
    """The highest id of the text is that of one sentence's word."""
    ids = {text: tiny_tokenizer.encode(PROMPT.format(instruction=text)) for text in INSTRUCTIONS}
    highest = max(max(known) for known in ids.values())
    (owner,) = [text for text, known in ids.items() if highest in known] or [""]
    other = next(text for text in INSTRUCTIONS if text != owner)
    tokens = bins(512 - highest)
    check(tokens, other)
    with pytest.raises(ValueError, match=f"{owner!r}.*{highest} ="):
        check(tokens, other, owner)


def test_capitals_do_not_hide_a_word(check):
    with pytest.raises(ValueError, match="LIFT"):
        check(bins(400), "LIFT the red block")


def test_a_marker_inside_an_instruction_is_found(check):
    """The tiny tokenizer's fillers are special tokens: a dataset could name one."""
    with pytest.raises(ValueError, match="300 = '<code_300>'"):
        check(bins(256), "lift the <code_300>")


def test_the_space_before_the_codes_counts(check, tiny_tokenizer):
    space = tiny_tokenizer.convert_tokens_to_ids("▁")
    with pytest.raises(ValueError, match=f"{space} = '▁'"):
        check(bins(512 - space), "lift")
