"""Instruction and action codes -> OpenVLA's ids and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from vla_tune.tokens import IGNORED
from vla_tune.tokens.prompt import causal_ids, check_length, check_template, filled

SPACE_PIECE = "▁"
"""The piece between the prompt and the first action; its hidden state predicts the first code (openvla-spec: id 29871)."""


@dataclass(frozen=True)
class ParallelPrompt:
    """Prompt of a policy that predicts all codes in one pass (OpenVLA-OFT, arXiv 2502.19645, §4).

    ids: `[BOS] prompt [space piece] [placeholder] * K [EOS]`; labels: the codes at the placeholders, `IGNORED` elsewhere.
    The placeholders' embeddings are zeroed by the model; the state at position p - 1 predicts position p.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    num_codes: int

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Adds `input_ids`, `labels`, `placeholders` and `prompt_length`; reads `instruction` and, if any, codes."""
        prompt = prompt_ids(self.tokenizer, self.template, sample["instruction"])
        return sample | parallel_ids(prompt, sample, self.num_codes, cast(int, self.tokenizer.eos_token_id))


@dataclass(frozen=True)
class CausalPrompt:
    """Prompt of a policy that predicts codes one after the other (OpenVLA, arXiv 2406.09246, §3.2).

    ids: `[BOS] prompt [space piece] [placeholder] * locations codes [EOS]`, without codes and EOS at inference; labels: codes and
    EOS, `IGNORED` elsewhere. The placeholders, whose embeddings are zeroed, are where a base that was pretrained to say where the
    named object is thinks of it (`PrependLocation`); published models have none.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    location_codes: int = 0

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Adds `input_ids`, `labels`, `placeholders` and `prompt_length`; reads `instruction` and, if any, codes."""
        prompt = prompt_ids(self.tokenizer, self.template, sample["instruction"])
        return sample | causal_ids(prompt, sample, cast(int, self.tokenizer.eos_token_id), location_codes=self.location_codes)


@lru_cache(maxsize=1024)
def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, instruction: str) -> tuple[int, ...]:
    """Ids of the prompt up to and including the space piece; those of sentences that come again are kept.

    Raises:
        ValueError: the instruction is empty, too long for the model, or holds characters the tokenizer does not know.
    """
    if not instruction.strip():
        raise ValueError("the instruction is empty: say what the robot should do.")
    ids = tokenizer.encode(filled(template, instruction=instruction.lower()), add_special_tokens=True, verbose=False)
    check_length(ids, tokenizer)
    if tokenizer.unk_token_id in ids:
        raise ValueError(f"the instruction {instruction!r} holds characters that the tokenizer does not know; use plain English.")
    return (*ids, cast(int, tokenizer.convert_tokens_to_ids(SPACE_PIECE)))


def parallel_ids(prompt: Sequence[int], sample: Mapping[str, Any], num_codes: int, stop_id: int) -> dict[str, np.ndarray]:
    """`input_ids`, `labels`, `placeholders` [L] and `prompt_length` of one sequence; without codes every label is `IGNORED`."""
    slots = slice(len(prompt), len(prompt) + num_codes)
    input_ids = np.array([*prompt, *[stop_id] * (num_codes + 1)], dtype=np.int64)
    placeholders = np.zeros(len(input_ids), dtype=bool)
    placeholders[slots] = True
    labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
    if "codes" in sample:
        labels[slots] = np.where(sample["code_mask"], sample["codes"], IGNORED)
    return {
        "input_ids": input_ids,
        "labels": labels,
        "placeholders": placeholders,
        "prompt_length": np.array(len(prompt)),
    }
