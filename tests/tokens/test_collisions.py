from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vla_tune.schema import Contract
from vla_tune.tokens import BinTokenizer, check_collisions, fit_fast, uniform_edges

INSTRUCTIONS = ("lift the red block", "touch the blue block")


def with_codes(contract: Contract, count: int) -> Contract:
    return replace(contract, action_tokens=BinTokenizer(uniform_edges(count), 512).to_record())


def test_codes_beside_the_text_pass(tiny_contract: Contract, tiny_tokenizer):
    check_collisions(tiny_contract, INSTRUCTIONS, tiny_tokenizer)
    chunks = np.random.default_rng(0).uniform(-1, 1, (50, 4, 4))
    fast = fit_fast(256, 10.0, vocabulary_size=512, actions=SimpleNamespace(chunks=chunks, counted=chunks < 2))
    check_collisions(replace(tiny_contract, action_tokens=fast.to_record()), INSTRUCTIONS, tiny_tokenizer)


def test_a_word_that_is_a_code_is_named(tiny_contract: Contract, tiny_tokenizer):
    """400 codes reach down to id 112, where words are."""
    words = {tiny_tokenizer.convert_tokens_to_ids(piece) for piece in ("▁lift", "▁blue")}
    assert all(112 <= word < 256 for word in words)
    with pytest.raises(ValueError, match=r"'lift the red block' has ids that are action codes \(.*the 400 codes are 112 to 511"):
        check_collisions(with_codes(tiny_contract, 400), INSTRUCTIONS, tiny_tokenizer)


def test_only_what_is_said_counts(tiny_contract: Contract, tiny_tokenizer):
    """The highest id of the text is that of one sentence's word."""
    ids = {text: tiny_tokenizer.encode(tiny_contract.prompt.format(instruction=text)) for text in INSTRUCTIONS}
    highest = max(max(known) for known in ids.values())
    (owner,) = [text for text, known in ids.items() if highest in known] or [""]
    other = next(text for text in INSTRUCTIONS if text != owner)
    contract = with_codes(tiny_contract, 512 - highest)
    check_collisions(contract, [other], tiny_tokenizer)
    with pytest.raises(ValueError, match=f"{owner!r}.*{highest} ="):
        check_collisions(contract, [other, owner], tiny_tokenizer)


def test_capitals_do_not_hide_a_word(tiny_contract: Contract, tiny_tokenizer):
    with pytest.raises(ValueError, match="LIFT"):
        check_collisions(with_codes(tiny_contract, 400), ["LIFT the red block"], tiny_tokenizer)


def test_a_marker_inside_an_instruction_is_found(tiny_contract: Contract, tiny_tokenizer):
    """The tiny tokenizer's fillers are special tokens: a dataset could name one."""
    with pytest.raises(ValueError, match="300 = '<code_300>'"):
        check_collisions(tiny_contract, ["lift the <code_300>"], tiny_tokenizer)


def test_the_space_before_the_codes_counts(tiny_contract: Contract, tiny_tokenizer):
    space = tiny_tokenizer.convert_tokens_to_ids("▁")
    with pytest.raises(ValueError, match=f"{space} = '▁'"):
        check_collisions(with_codes(tiny_contract, 512 - space), ["lift"], tiny_tokenizer)
