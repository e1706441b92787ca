"""What families of language models share: the template around an instruction, and where codes stand in a causal sequence."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase, ProcessorMixin

Processor = PreTrainedTokenizerBase | ProcessorMixin
"""What makes a model's inputs: a text tokenizer, or one together with what reads images."""

IGNORED = -100
"""The label of a position that does not count in the loss."""


def filled(template: str, *, instruction: str, state: str = "") -> str:
    """The prompt: `{instruction}` and `{state}` are replaced as they stand there, and nothing else is read into the braces."""
    before, *behind = template.split("{instruction}")
    return instruction.join(part.replace("{state}", state) for part in (before, *behind))


def check_template(template: str) -> None:
    """Refuse a template without a place for the instruction."""
    if "{instruction}" not in template:
        raise ValueError(f"the prompt template {template!r} has no {{instruction}}: the policy could not be told what to do.")


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


def causal_ids(prompt: Sequence[int], sample: Mapping[str, Any], stop_id: int, *, location_codes: int = 0) -> dict[str, np.ndarray]:
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
