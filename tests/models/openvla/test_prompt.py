from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.models.openvla.prompt import CausalPrompt, ParallelPrompt, prompt_ids
from vla_tune.models.openvla.tiny import PROMPT
from vla_tune.tokens import IGNORED

SPACE = "▁"
WORDS = ["lift", "push", "the", "red", "blue", "block", "left", "Yellow", "gently", "2"]


@pytest.fixture
def prompt(tiny_tokenizer) -> ParallelPrompt:
    return ParallelPrompt(tiny_tokenizer, PROMPT, num_codes=3)


def test_ids_and_labels_of_a_training_sample(prompt: ParallelPrompt, tiny_tokenizer):
    codes = np.array([300, 301, 302])
    sample = prompt({"instruction": "lift the red block", "codes": codes, "code_mask": np.full(3, True), "index": 7})
    ids, labels, slots = sample["input_ids"], sample["labels"], sample["placeholders"]
    assert sample["index"] == 7
    assert ids[0] == tiny_tokenizer.bos_token_id
    assert ids[-1] == tiny_tokenizer.eos_token_id
    assert ids[-5] == tiny_tokenizer.convert_tokens_to_ids(SPACE)
    assert slots.tolist() == [False] * (len(ids) - 4) + [True] * 3 + [False]
    assert (labels[slots] == codes).all()
    assert (labels[~slots] == IGNORED).all()
    assert not np.isin(ids, codes).any(), "the answer is not in the question"


def test_the_text_is_the_template(prompt: ParallelPrompt, tiny_tokenizer):
    ids = prompt_ids(prompt.tokenizer, prompt.template, "lift the red block")
    text = tiny_tokenizer.decode(ids[1:-1])
    assert text.replace(" \n ", "\n") == "In: What action should the robot take to lift the red block?\nOut:"
    assert tiny_tokenizer.unk_token_id not in ids


@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
def test_training_and_acting_have_the_same_ids(tiny_tokenizer, words: list[str]):
    prompt = ParallelPrompt(tiny_tokenizer, PROMPT, num_codes=4)
    instruction = " ".join(words)
    training = prompt({"instruction": instruction, "codes": np.array([256, 300, 400, 511]), "code_mask": np.full(4, True)})
    acting = prompt({"instruction": instruction})
    assert (training["input_ids"] == acting["input_ids"]).all()
    assert (training["placeholders"] == acting["placeholders"]).all()
    assert (acting["labels"] == IGNORED).all()


def test_capitals_do_not_matter_and_words_do(prompt: ParallelPrompt):
    ids = partial(prompt_ids, prompt.tokenizer, prompt.template)
    assert ids("Lift the RED block") == ids("lift the red block") != ids("lift the blue block")


def test_masked_codes_stay_ignored(prompt: ParallelPrompt):
    sample = prompt({"instruction": "lift", "codes": np.array([300, 301, 302]), "code_mask": np.array([True, False, False])})
    assert sample["labels"][sample["placeholders"]].tolist() == [300, IGNORED, IGNORED]


def test_a_template_without_instruction_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"no \{instruction\}"):
        ParallelPrompt(tiny_tokenizer, "In: do something\nOut:", num_codes=1)


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_an_empty_instruction_is_refused(prompt: ParallelPrompt, instruction: str):
    with pytest.raises(ValueError, match="instruction is empty"):
        prompt({"instruction": instruction})


def test_unknown_characters_are_refused(prompt: ParallelPrompt):
    with pytest.raises(ValueError, match="'heb den Würfel 🤖' holds characters"):
        prompt({"instruction": "heb den Würfel 🤖"})


def test_codes_of_another_length_are_refused(prompt: ParallelPrompt):
    with pytest.raises(ValueError, match="2"):
        prompt({"instruction": "lift", "codes": np.array([300, 301]), "code_mask": np.full(2, True)})


def test_the_causal_prompt_is_the_published_one(tiny_tokenizer):
    """`[BOS] prompt [space piece] codes [EOS]`, and the prompt alone when acting (golden README 4.3)."""
    prompt, codes = CausalPrompt(tiny_tokenizer, PROMPT), np.array([300, 301, 302])
    acting = prompt({"instruction": "lift the red block"})
    training = prompt({"instruction": "lift the red block", "codes": codes, "code_mask": np.array([True, True, False])})
    length = len(acting["input_ids"])
    assert training["input_ids"].tolist() == [*acting["input_ids"], *codes, tiny_tokenizer.eos_token_id]
    assert acting["input_ids"][-1] == tiny_tokenizer.convert_tokens_to_ids(SPACE)
    assert training["labels"].tolist() == [IGNORED] * length + [300, 301, IGNORED, tiny_tokenizer.eos_token_id]
    assert training["prompt_length"] == acting["prompt_length"] == length
    assert not training["placeholders"].any()
    assert (acting["labels"] == IGNORED).all()
    with pytest.raises(ValueError, match=r"no \{instruction\}"):
        CausalPrompt(tiny_tokenizer, "In: do something\nOut:")


@pytest.mark.parametrize("known", [True, False])
def test_locations_are_placeholders_at_the_end_of_a_causal_prompt(tiny_tokenizer, known):
    plain, prompt = CausalPrompt(tiny_tokenizer, PROMPT), CausalPrompt(tiny_tokenizer, PROMPT, location_codes=2)
    asked = {"instruction": "lift the red block"}
    codes, mask = np.array([400, 401, 300, 301]), np.array([known, known, True, True])
    acting, training = prompt(asked), prompt(asked | {"codes": codes, "code_mask": mask})
    length = len(plain(asked)["input_ids"])
    assert acting["prompt_length"] == training["prompt_length"] == length + 2 == len(acting["input_ids"])
    assert training["input_ids"].tolist() == [*acting["input_ids"], 300, 301, tiny_tokenizer.eos_token_id]
    assert np.flatnonzero(training["placeholders"]).tolist() == [length, length + 1]
    assert training["labels"][length:].tolist() == [
        *([400, 401] if known else [IGNORED] * 2),
        300,
        301,
        tiny_tokenizer.eos_token_id,
    ]


def test_a_prompt_that_is_longer_than_the_model_reads_is_refused_without_a_warning(prompt: ParallelPrompt):
    assert prompt.tokenizer.model_max_length == 512
    with pytest.raises(ValueError, match=r"the prompt takes .* tokens, the model reads at most 512: say the instruction in fewer"):
        prompt_ids(prompt.tokenizer, prompt.template, "z " * 700)
