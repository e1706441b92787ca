"""What a contract keeps of a model of transformers: prompt, its processor's options and the rows of its codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vla_tune.models.language import check_language
from vla_tune.schema import Contract, bounded, structured
from vla_tune.tokens import ActionTokens

FAMILY = "transformers"
DECODING = "autoregressive"
"""Models of transformers attend causally."""


@dataclass(frozen=True, kw_only=True)
class ProcessorRule:
    """How images and prompt become a model's inputs where the model brings its own processor (`transformers`)."""

    height: int
    width: int
    """Every camera image is resized to this before the processor sees it, so that the number of image tokens never changes."""
    layout: Literal["chat", "prefix"]
    """The prompt is a user's turn in the processor's chat template, or a plain prefix (PaliGemma, arXiv 2407.07726, §3.1)."""
    image_options: Mapping[str, bool]
    """What the processor is told at every call, e.g. not to cut images into tiles."""
    num_codes: int
    """How many ids below the vocabulary size stand for action codes."""
    code_tokens: tuple[str, ...]
    """Patterns of the tokenizer's own special tokens that may be among them, e.g. `<loc*>`; else they are ids without a text."""
    processor_hash: str
    """SHA-256 of the processor's configuration: another one would make other inputs."""


@dataclass(frozen=True, kw_only=True)
class HFRecord:
    """How a robot's samples become the inputs of a model of transformers, and its codes actions."""

    family: Literal["transformers"]
    prompt: str
    """The template around `{instruction}` and, if wanted, `{state}`; the instruction is lower-cased."""
    image: ProcessorRule
    action_tokens: ActionTokens


def record_of(contract: Contract, *, source: str = "contract") -> HFRecord:
    """The part of a contract that a model of transformers reads.

    Raises:
        ValueError: it is another family's, a field is missing, unknown, of the wrong type or without sense.
    """
    if contract.model["family"] != FAMILY:
        raise ValueError(
            f"{source}: its contract is for a model without a processor of its own (family {contract.model['family']!r}), its "
            "weights are not: load the checkpoint that it was made for."
        )
    record = structured(contract.model, HFRecord, f"{source}: model")
    for side in ("height", "width"):
        bounded(source, side, getattr(record.image, side))
    bounded(source, "code_tokens", len(record.image.code_tokens), least=0)
    check_language(contract, prompt=record.prompt, tokens=record.action_tokens, decoding=DECODING, source=source)
    return record
