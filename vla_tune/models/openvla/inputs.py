"""What OpenVLA brings between a robot's samples and its network: codes, pixels and ids, and the head that decodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from vla_tune.data.transforms import Transform
from vla_tune.models.base import ActionModel
from vla_tune.models.heads import HEADS, ActionSpace, Head, action_space, head_of
from vla_tune.models.heads.codes import EncodeActions
from vla_tune.models.language import tokenizer_of
from vla_tune.models.openvla.location import Located, PrependLocation
from vla_tune.models.openvla.pictures import NormalizePixels, ResizeImages
from vla_tune.models.openvla.prompt import CausalPrompt, ParallelPrompt, prompt_ids
from vla_tune.models.openvla.record import OpenVLARecord, record_of
from vla_tune.schema import Contract
from vla_tune.tokens import ActionTokenizer, Processor, action_tokenizer, check_collisions, pad_id, stop_id


@dataclass(frozen=True, eq=False)
class OpenVLAInputs:
    """A contract as an OpenVLA model reads it (a `ModelInterface`, `Cropping`)."""

    contract: Contract
    record: OpenVLARecord
    tokenizer: PreTrainedTokenizerBase
    head: Callable[..., Any] | None = None
    """With how it learns; None where it only acts."""

    @classmethod
    def of(cls, contract: Contract, processor: Processor, *, head: Callable[..., Any] | None = None) -> "OpenVLAInputs":
        """What the contract describes.

        Raises:
            ValueError: it is another family's, says what cannot be, or the head decodes in another way: this is seen before any
                weight is read.
        """
        if isinstance(processor, ProcessorMixin):
            raise ValueError("the contract was made for a model without a processor of its own: load the checkpoint that it names.")
        inputs = cls(contract, record_of(contract), processor, head)
        _ = inputs.steps, inputs._head
        return inputs

    @property
    def steps(self) -> tuple[Transform, ...]:
        """Codes, pixels, ids."""
        codes, rule = self.record.location_codes, self.record.image
        location = (PrependLocation(codes, self.record.action_tokens.vocabulary_size),) if codes else ()
        roles = tuple(camera.role for camera in self.contract.embodiment.cameras)
        pixels = (ResizeImages(rule), NormalizePixels(rule, roles))
        return (EncodeActions(self._tokens, self.contract.horizon), *location, *pixels, self._prompt)

    @property
    def pad_id(self) -> int:
        """The tokenizer's."""
        return pad_id(self.tokenizer)

    @property
    def crop_area(self) -> float:
        """The share of each picture's area that the base's own rule keeps."""
        return self.record.image.center_crop_area

    def uncropped(self) -> "OpenVLAInputs":
        """The same, of whole pictures."""
        return replace(self, record=replace(self.record, image=replace(self.record.image, center_crop_area=1.0)))

    def check(self, instruction: str) -> None:
        """Refuse an instruction of which no prompt can be made.

        Raises:
            ValueError: it is empty, too long, holds characters that the tokenizer does not know, or ids that are action codes.
        """
        prompt = prompt_ids(self.tokenizer, self.record.prompt, instruction)
        check_collisions(prompt, instruction, self._tokens, self.tokenizer)

    def over(self, network: Any) -> ActionModel:
        """The network with its head."""
        return self._head.over(network)

    @cached_property
    def _head(self) -> Head:
        decoding, space = self.record.decoding, _space(self.contract, self.record, self._tokens, stop_id=stop_id(self.tokenizer))
        return head_of(self.head or HEADS[decoding], space, decoding=decoding)

    @cached_property
    def _tokens(self) -> ActionTokenizer:
        return tokenizer_of(self.contract, self.record.action_tokens)

    @property
    def _prompt(self) -> CausalPrompt | ParallelPrompt:
        """The way of decoding decides where codes stand."""
        record, body = self.record, self.contract.embodiment
        if record.decoding == "autoregressive":
            return CausalPrompt(self.tokenizer, record.prompt, record.location_codes)
        codes = self._tokens.num_codes(self.contract.horizon, body.action_dimension)
        return ParallelPrompt(self.tokenizer, record.prompt, record.location_codes + codes)


def space_of(contract: Contract, *, stop_id: int) -> ActionSpace:
    """What a head is told of a chunk; a location in front of it is decoded with it where its codes are said."""
    record = record_of(contract)
    return _space(contract, record, action_tokenizer(record.action_tokens), stop_id=stop_id)


def _space(contract: Contract, record: OpenVLARecord, tokens: ActionTokenizer, *, stop_id: int) -> ActionSpace:
    codes = record.location_codes
    spoken = Located(tokens, codes) if codes and record.decoding != "autoregressive" else tokens
    return action_space(contract, spoken, stop_id=stop_id)
