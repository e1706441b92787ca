"""Instruction and action codes -> the language model's ids and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from vla_tune.schema import filled

Processor = PreTrainedTokenizerBase | ProcessorMixin
"""What makes a model's inputs: a text tokenizer, or one together with what reads images."""

IGNORED = -100
"""The label of a position that does not count in the loss."""

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
        return sample | parallel_ids(prompt, sample, self.num_codes, stop_id(self.tokenizer))

    def check(self, instruction: str) -> None:
        """Refuse an instruction of which no prompt can be made.

        Raises:
            ValueError: it is empty, too long, or holds characters the tokenizer does not know.
        """
        prompt_ids(self.tokenizer, self.template, instruction)


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
        return sample | causal_ids(prompt, sample, stop_id(self.tokenizer), location_codes=self.location_codes)

    def check(self, instruction: str) -> None:
        """Refuse an instruction of which no prompt can be made.

        Raises:
            ValueError: it is empty, too long, or holds characters the tokenizer does not know.
        """
        prompt_ids(self.tokenizer, self.template, instruction)


def check_template(template: str) -> None:
    """Refuse a template without a place for the instruction."""
    if "{instruction}" not in template:
        raise ValueError(f"the prompt template {template!r} has no {{instruction}}: the policy could not be told what to do.")


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, instruction: str) -> list[int]:
    """Ids of the prompt up to and including the space piece.

    Raises:
        ValueError: the instruction is empty, too long for the model, or holds characters the tokenizer does not know.
    """
    if not instruction.strip():
        raise ValueError("the instruction is empty: say what the robot should do.")
    ids = tokenizer.encode(filled(template, instruction=instruction.lower()), add_special_tokens=True, verbose=False)
    check_length(ids, tokenizer)
    if tokenizer.unk_token_id in ids:
        raise ValueError(f"the instruction {instruction!r} holds characters that the tokenizer does not know; use plain English.")
    return [*ids, cast(int, tokenizer.convert_tokens_to_ids(SPACE_PIECE))]


def check_length(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a prompt that the model cannot read; transformers would only warn, and memory grows with the square of it."""
    if len(ids) > tokenizer.model_max_length:
        raise ValueError(
            f"the prompt takes {len(ids):,} tokens, the model reads at most {tokenizer.model_max_length:,}: "
            "say the instruction in fewer words."
        )


def text_tokenizer(processor: Processor) -> PreTrainedTokenizerBase:
    """What makes ids of text."""
    return getattr(processor, "tokenizer") if isinstance(processor, ProcessorMixin) else processor  # noqa: B009 (set per class)


def stop_id(processor: Processor) -> int:
    """The id that ends a sequence."""
    return cast(int, text_tokenizer(processor).eos_token_id)


def pad_id(processor: Processor) -> int:
    """The id that fills a row up; it is masked from attention.

    Raises:
        ValueError: the tokenizer has none.
    """
    tokenizer = text_tokenizer(processor)
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token: set pad_token in its tokenizer_config.json.")
    return cast(int, tokenizer.pad_token_id)


def causal_ids(prompt: list[int], sample: Mapping[str, Any], stop_id: int, *, location_codes: int = 0) -> dict[str, np.ndarray]:
    """`input_ids`, `labels`, `placeholders` [L] and `prompt_length` of one sequence; codes that are masked have no label.

    The first `location_codes` of the codes are labels of placeholders, which end the prompt.
    """
    known = len(prompt) + location_codes
    behind = np.array([*sample["codes"], stop_id] if "codes" in sample else [], np.int64)
    input_ids = np.array([*prompt, *[stop_id] * location_codes, *behind[location_codes:]], np.int64)
    labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
    if len(behind):
        labels[len(prompt) :] = np.where([*sample["code_mask"], True], behind, IGNORED)
    places = np.arange(len(input_ids))
    return {
        "input_ids": input_ids,
        "labels": labels,
        "placeholders": (places >= len(prompt)) & (places < known),
        "prompt_length": np.array(known),
    }


def parallel_ids(prompt: list[int], sample: Mapping[str, Any], num_codes: int, stop_id: int) -> dict[str, np.ndarray]:
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
