"""Instruction and action codes -> the language model's ids and labels."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

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
        if "{instruction}" not in self.template:
            raise ValueError(
                f"the prompt template {self.template!r} has no {{instruction}}: the policy could not be told what to do."
            )

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Adds `input_ids`, `labels` and `placeholders`; reads `instruction` and, when training, `codes`."""
        prompt = self.prompt_ids(sample["instruction"])
        return sample | parallel_ids(prompt, sample.get("codes"), self.num_codes, cast(int, self.tokenizer.eos_token_id))

    def prompt_ids(self, instruction: str) -> list[int]:
        """Ids up to and including the space piece.

        Raises:
            ValueError: the instruction is empty, or holds characters the tokenizer does not know.
        """
        if not instruction.strip():
            raise ValueError("the instruction is empty: say what the robot should do.")
        ids = self.tokenizer.encode(self.template.format(instruction=instruction.lower()), add_special_tokens=True)
        if self.tokenizer.unk_token_id in ids:
            raise ValueError(
                f"the instruction {instruction!r} holds characters that the tokenizer does not know; use plain English."
            )
        return [*ids, cast(int, self.tokenizer.convert_tokens_to_ids(SPACE_PIECE))]


def parallel_ids(prompt: list[int], codes: np.ndarray | None, num_codes: int, stop_id: int) -> dict[str, np.ndarray]:
    """`input_ids`, `labels` and `placeholders` [L] of one sequence; without `codes` every label is `IGNORED`."""
    slots = slice(len(prompt), len(prompt) + num_codes)
    input_ids = np.array([*prompt, *[stop_id] * (num_codes + 1)], dtype=np.int64)
    placeholders = np.zeros(len(input_ids), dtype=bool)
    placeholders[slots] = True
    labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
    if codes is not None:
        labels[slots] = codes
    return {"input_ids": input_ids, "labels": labels, "placeholders": placeholders}
