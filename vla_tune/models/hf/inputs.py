"""Inputs of models that bring their own processor (`transformers`): images and prompt become what it makes of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from vla_tune.data.transforms import Sample, Transform
from vla_tune.models.base import ActionModel
from vla_tune.models.heads import HEADS, ActionSpace, Head, action_space, head_of
from vla_tune.models.heads.codes import EncodeActions
from vla_tune.models.hf.record import DECODING, HFRecord, ProcessorRule, record_of
from vla_tune.models.language import tokenizer_of
from vla_tune.schema import Contract, content_hash
from vla_tune.tokens import ActionTokenizer, Processor, check_collisions, pad_id, stop_id, text_tokenizer
from vla_tune.tokens.prompt import causal_ids, check_length, check_template, filled

_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
"""What processors say about each id, beside the attention mask."""
_STATE_BINS = 256


class Layout(Protocol):
    """How a prompt is put before a model."""

    def text(self, processor: ProcessorMixin, prompt: str, num_images: int) -> str:
        """What the processor is given; it puts the image tokens in."""
        ...

    @property
    def behind(self) -> Mapping[str, int]:
        """What is said about each id behind the prompt, where it is not 0."""
        ...


@dataclass(frozen=True)
class ChatLayout:
    """A user's turn of all images and the prompt, and the beginning of the answer, in the processor's chat template."""

    def text(self, processor: ProcessorMixin, prompt: str, num_images: int) -> str:
        """The conversation so far."""
        content = [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]
        turn = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))

    @property
    def behind(self) -> Mapping[str, int]:
        """Text is 0."""
        return {}


@dataclass(frozen=True)
class PrefixLayout:
    """The images, then the prompt; all of it is seen from everywhere, and codes only from behind (arXiv 2407.07726, §3.1)."""

    def text(self, processor: ProcessorMixin, prompt: str, num_images: int) -> str:
        """Without a template; PaliGemma's processor adds the start and the line end."""
        return str(getattr(processor, "image_token")) * num_images + prompt  # noqa: B009 (set per class)

    @property
    def behind(self) -> Mapping[str, int]:
        """The second segment is causal."""
        return {"token_type_ids": 1}


LAYOUTS: Mapping[str, Layout] = {"chat": ChatLayout(), "prefix": PrefixLayout()}
"""What a rule's `layout` names."""


@dataclass(frozen=True)
class ProcessorPrompt:
    """Images, instruction and codes -> ids and the processor's own tensors, for codes that follow one another.

    ids: `prompt codes [EOS]`, without codes and EOS at inference; labels: codes and EOS, `IGNORED` elsewhere. Where the template
    has `{state}`, the normalised state is written into the prompt, each value as one of 256 bins (as pi0-FAST does, arXiv
    2501.09747).
    """

    processor: ProcessorMixin
    rule: ProcessorRule
    template: str
    roles: tuple[str, ...]
    """The order of the images."""
    codes: tuple[int, int]
    """Ids from the first up to, and without, the second stand for action codes."""

    def __post_init__(self) -> None:
        check_template(self.template)

    def __call__(self, sample: Sample) -> Sample:
        """Replaces `images` by `vision_inputs`; adds `token_inputs`, `input_ids`, `labels`, `placeholders` and `prompt_length`.

        Raises:
            ValueError: the instruction is empty, or is read as a special token or an action code.
        """
        self.check(sample["instruction"])
        made = self._processed(sample)
        prompt = made.pop("input_ids")[0].tolist()
        tokenizer = text_tokenizer(self.processor)
        check_length(prompt, tokenizer)
        texts = causal_ids(prompt, sample, int(tokenizer.eos_token_id))  # pyright: ignore[reportArgumentType]
        added = len(texts["input_ids"]) - len(prompt)
        per_token = {name: self._longer(name, made.pop(name)[0], added) for name in _PER_TOKEN if name in made}
        kept = {key: value for key, value in sample.items() if key != "images"}
        return kept | texts | {"vision_inputs": made, "token_inputs": per_token}

    def _processed(self, sample: Sample) -> dict[str, np.ndarray]:
        fields = {"instruction": sample["instruction"].lower(), "state": state_text(sample["state"])}
        text = LAYOUTS[self.rule.layout].text(self.processor, filled(self.template, **fields), len(self.roles))
        images = [resized(sample["images"][role], self.rule) for role in self.roles]
        call = cast(Callable[..., Mapping[str, Any]], self.processor)
        made = call(images=[images], text=[text], return_tensors="np", images_kwargs=dict(self.rule.image_options))
        ignored = ("attention_mask", "labels")
        return {name: np.asarray(value) for name, value in made.items() if name not in ignored}

    def _longer(self, name: str, prompt: Int[np.ndarray, " P"], added: int) -> Int[np.ndarray, " L"]:
        return np.pad(prompt, (0, added), constant_values=LAYOUTS[self.rule.layout].behind.get(name, 0))

    def check(self, instruction: str) -> None:
        """Refuse an instruction of which no prompt can be made.

        Raises:
            ValueError: it is empty, too long, or is read as a special token or an action code.
        """
        if not instruction.strip():
            raise ValueError("the instruction is empty: say what the robot should do.")
        tokenizer = text_tokenizer(self.processor)
        ids = tokenizer.encode(instruction.lower(), add_special_tokens=False, verbose=False)
        check_length(ids, tokenizer)
        first, end = self.codes
        refused = [token for token in ids if token in self._special or first <= token < end]
        if refused:
            tokens = tokenizer.convert_ids_to_tokens(refused)
            raise ValueError(
                f"the instruction {instruction!r} is read as {tokens} (ids {refused}), which are no words but special tokens or "
                "action codes: use plain English."
            )

    @cached_property
    def _special(self) -> frozenset[int]:
        tokenizer = text_tokenizer(self.processor)
        added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(added | set(tokenizer.all_special_ids))


def processor_prompt(contract: Contract, record: HFRecord, tokens: ActionTokenizer, processor: Processor) -> ProcessorPrompt:
    """The step that a contract's record describes.

    Raises:
        ValueError: the processor is another one, or codes and text share ids.
    """
    rule, end = record.image, record.action_tokens.vocabulary_size
    if not isinstance(processor, ProcessorMixin) or processor_hash(processor) != rule.processor_hash:
        raise ValueError(
            f"the processor ({type(processor).__name__}) is configured in another way than in training: images, template or "
            "tokenizer differ. Take the files of the training run's base, and the transformers version of its lock file."
        )
    first, used = end - rule.num_codes, tokens.allowed_ids
    if used.min() < first or used.max() >= end:
        raise ValueError(
            f"the tokenizer's {len(used)} codes are the ids {used.min()} to {used.max()}, the model keeps {first} to {end - 1} "
            f"for codes: set model.rows.count={end - int(used.min())}."
        )
    check_codes(text_tokenizer(processor), first, end, allowed=rule.code_tokens)
    roles = tuple(camera.role for camera in contract.embodiment.cameras)
    return ProcessorPrompt(processor, rule, record.prompt, roles, (first, end))


@dataclass(frozen=True, eq=False)
class HFInputs:
    """A contract as a model of transformers reads it (a `ModelInterface`)."""

    contract: Contract
    record: HFRecord
    processor: Processor
    head: Callable[..., Any] | None = None
    """With how it learns; None where it only acts."""

    @classmethod
    def of(cls, contract: Contract, processor: Processor, *, head: Callable[..., Any] | None = None) -> "HFInputs":
        """What the contract describes.

        Raises:
            ValueError: it is another family's, says what cannot be, or the processor is another one: this is seen before any weight
                is read.
        """
        inputs = cls(contract, record_of(contract), processor, head)
        _ = inputs.steps, inputs._head
        return inputs

    @property
    def steps(self) -> tuple[Transform, ...]:
        """Codes, then the processor."""
        return (EncodeActions(self._tokens, self.contract.horizon), self._prompt)

    @property
    def pad_id(self) -> int:
        """The tokenizer's."""
        return pad_id(self.processor)

    def check(self, instruction: str) -> None:
        """Refuse an instruction of which no prompt can be made.

        Raises:
            ValueError: it is empty, too long, or is read as a special token or an action code.
        """
        self._prompt.check(instruction)
        text = filled(self.record.prompt, instruction=instruction.lower())
        check_collisions(text_tokenizer(self.processor).encode(text), instruction, self._tokens, self.processor)

    def over(self, network: Any) -> ActionModel:
        """The network with its head, which says one code after the other."""
        return self._head.over(network)

    @property
    def space(self) -> ActionSpace:
        """What a head is told of a chunk."""
        return action_space(self.contract, self._tokens, stop_id=stop_id(self.processor))

    @cached_property
    def _head(self) -> Head:
        return head_of(self.head or HEADS[DECODING], self.space, decoding=DECODING)

    @cached_property
    def _tokens(self) -> ActionTokenizer:
        return tokenizer_of(self.contract, self.record.action_tokens)

    @cached_property
    def _prompt(self) -> ProcessorPrompt:
        return processor_prompt(self.contract, self.record, self._tokens, self.processor)


def check_codes(tokenizer: PreTrainedTokenizerBase, first: int, end: int, *, allowed: Sequence[str]) -> None:
    """Refuse action codes whose ids [first, end) text could have: those of the tokenizer that no pattern of `allowed` names.

    Raises:
        ValueError: there are such ids; some are named.
    """
    known = range(max(first, 0), min(end, len(tokenizer)))
    tokens = {index: str(tokenizer.convert_ids_to_tokens(index)) for index in known}
    shared = {index: token for index, token in tokens.items() if not any(fnmatchcase(token, pattern) for pattern in allowed)}
    if shared:
        few = ", ".join(f"{index} = {token!r}" for index, token in list(shared.items())[:5])
        raise ValueError(
            f"{len(shared)} of the ids {first} to {end - 1}, meant for action codes, are the tokenizer's ({few}): text would be "
            "taken for actions. Name special tokens that may be codes in model.rows.tokens, or append rows to the vocabulary."
        )


def processor_hash(processor: ProcessorMixin) -> str:
    """SHA-256 of everything that decides what a processor makes of images and text."""
    tokenizer = text_tokenizer(processor)
    backend = json.loads(getattr(tokenizer, "backend_tokenizer").to_str())  # noqa: B009 (of fast tokenizers only)
    text = {key: value for key, value in backend.items() if key not in ("padding", "truncation")}
    images = json.loads(getattr(processor, "image_processor").to_json_string())  # noqa: B009 (set per class)
    own = {key: value for key, value in processor.to_dict().items() if isinstance(value, bool | int | float | str)}
    special = {"eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return content_hash({"text": text, "images": images, "own": own, "template": processor.chat_template, "special": special})


def resized(image: UInt8[np.ndarray, "H W 3"], rule: ProcessorRule) -> Image.Image:
    """The image at the rule's size: bicubic with antialiasing on uint8, ignoring the aspect ratio."""
    return Image.fromarray(image).resize((rule.width, rule.height), Image.Resampling.BICUBIC)


def state_text(state: Float[np.ndarray, " S"]) -> str:
    """A normalised state as numbers from 0 to 255, equal bins of [-1, 1]."""
    bins = np.digitize(state, np.linspace(-1, 1, _STATE_BINS + 1)[1:-1])
    return " ".join(map(str, bins.tolist()))
