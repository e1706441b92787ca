"""An OpenVLA checkpoint folder: what `conf/model` names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vla_tune.data.pipeline import ModelPart
from vla_tune.models.base import Outline, Wanted
from vla_tune.models.files import CONFIG_FILE
from vla_tune.models.hashes import cache_folder, remembered_hash
from vla_tune.models.heads import decoding_of
from vla_tune.models.hub import checkpoint_folder
from vla_tune.models.nf4 import NF4
from vla_tune.models.openvla.additions import Addition, extended, for_state, module_patterns
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.load import OPENVLA_NF4, load, load_config, load_tokenizer, weights
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.openvla.oft_files import oft_hash
from vla_tune.models.openvla.outline import outline
from vla_tune.models.openvla.published import PICTURES, published_inputs
from vla_tune.models.openvla.record import Given, OpenVLARecord, record_of
from vla_tune.models.openvla.save import write_checkpoint
from vla_tune.models.openvla.tokenizer_file import copy_tokenizer
from vla_tune.models.sealed import seal, unbroken
from vla_tune.schema import CONTRACT_FILE, Contract


@dataclass(frozen=True)
class OpenVLACheckpoint:
    """The folder of an OpenVLA model and the form in which its weights are wanted; nothing is read before it is asked for."""

    folder: str
    """A path, or the id of a published model on the hub (`openvla/openvla-7b`)."""
    base: str = "bf16"
    """The weight format (`models.precision.FORMATS`)."""
    architecture: str | None = None
    """A folder with the same configuration, for `outline` where `folder` is not on this machine."""
    nf4: NF4 = OPENVLA_NF4
    """What a 4-bit base means."""
    attention: str = "auto"
    """The attention kernel (`models.precision.ATTENTIONS`)."""
    cache: str | None = None
    """A folder for 4-bit copies and hashes of large checkpoints; without it they are made each time."""
    additions: Mapping[str, Addition] = field(default_factory=dict)
    """By name, what is put beside the base."""
    state_dimension: int | None = None
    """S of the robot: a base that reads the state of another one gets a projector of this size, which learns in full; None keeps
    the base's."""
    pictures: str = "processor"
    """Of a published base, what comes before its image processor in what is trained from it (one of `PICTURES`)."""

    def __post_init__(self) -> None:
        if self.pictures not in PICTURES:
            raise ValueError(f"pictures={self.pictures!r}: choose from {', '.join(PICTURES)}.")

    @cached_property
    def path(self) -> Path:
        """Where the files lie, which are as they were written."""
        return unbroken(checkpoint_folder(self.folder))

    def load(self, *, device: torch.device | str) -> OpenVLA:
        """The model on `device`, in evaluation mode."""
        return load(
            self.path,
            base=self.base,
            nf4=self.nf4,
            cache=self._cache,
            attention=self.attention,
            device=device,
            additions=self._beside(load_config(self.path)),
        )

    @cached_property
    def processor(self) -> PreTrainedTokenizerBase:
        """The text tokenizer."""
        return load_tokenizer(self.path)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self._given.vocabulary_size

    def part(self, wanted: Wanted) -> ModelPart:
        """Images and prompt as the base was trained with, codes and head as the run wants them.

        Raises:
            ValueError: it wants neither codes nor values; or a contract says how pictures are read, and `pictures` says it too.
        """
        given = self._given
        if self.pictures != "processor" and (self.path / CONTRACT_FILE).is_file():
            said = f"how {self.folder} reads pictures is in its {CONTRACT_FILE}"
            raise ValueError(f"model.pictures={self.pictures}: {said}; leave model.pictures out.")
        return given_part(given, wanted, self.folder)

    def interface(self, contract: Contract, *, head: Callable[..., Any] | None = None) -> OpenVLAInputs:
        """What the contract says, behind this folder's tokenizer.

        Raises:
            ValueError: it is another family's, says what cannot be, or is for a model of other sizes.
        """
        inputs = OpenVLAInputs.of(contract, self.processor, head=head)
        check_sizes(inputs.record, load_config(self.path), self.folder)
        return inputs

    @cached_property
    def _given(self) -> Given:
        """From the folder's contract, or from a published folder's files."""
        if not (self.path / CONTRACT_FILE).is_file():
            given = published_inputs(self.path)
            return replace(given, image=PICTURES[self.pictures](given.image))
        record = record_of(Contract.load(self.path), source=str(self.path / CONTRACT_FILE))
        return Given(
            image=record.image,
            prompt=record.prompt,
            vocabulary_size=load_config(self.path).vocabulary_size,
            location_codes=record.location_codes,
        )

    def outline(self) -> Outline:
        """The architecture without its weights; nothing is downloaded."""
        places = [Path(place) for place in (self.folder, self.architecture) if place is not None]
        known = next((place for place in places if (place / CONFIG_FILE).is_file()), None)
        if known is None:
            raise FileNotFoundError(
                f"no {CONFIG_FILE} in {' or '.join(map(str, places))}: name a checkpoint folder on this machine as model.folder, "
                "or a folder with the same configuration as model.architecture."
            )
        own = load_config(known)
        beside = self._beside(own)
        return outline(extended(own, beside), nf4=self.nf4, untrained=module_patterns(beside))

    def content_hash(self) -> str:
        """Of the weights."""
        return oft_hash(self.path, remembered_hash(self.path, self._cache))

    def weights(self) -> Mapping[str, Tensor]:
        """What the model multiplies with, weight by weight from the files; new weights of `additions` are not among them."""
        return weights(self.path, self._config, base=self.base, nf4=self.nf4, cache=self._cache)

    def write(self, folder: Path, tensors: Mapping[str, Tensor], contract: Contract) -> None:
        """The same architecture, additions included, with other weights, under their published names, into an existing folder."""
        write_checkpoint(folder, tensors, config=self._config, tokenizer=self.processor, contract=contract)
        copy_tokenizer(self.path, folder)
        seal(folder)

    @property
    def _cache(self) -> Path | None:
        return cache_folder(self.cache)

    @property
    def _config(self) -> OpenVLAConfig:
        own = load_config(self.path)
        return extended(own, self._beside(own))

    def _beside(self, own: OpenVLAConfig) -> Sequence[Addition]:
        """What was asked for, and what a base with the configuration `own` needs for this robot."""
        asked = list(self.additions.values())
        return [*asked, *for_state(extended(own, asked), self.state_dimension)]


def given_part(given: Given, wanted: Wanted, folder: str) -> ModelPart:
    """What is `given` to the model in `folder`, with the codes and the head that are wanted.

    Raises:
        ValueError: neither codes nor values are.
    """
    if wanted.tokens is None or wanted.head is None:
        raise ValueError(f"{folder} speaks codes: choose a head and tokens (head=parallel tokens=uniform_256).")
    tokens = wanted.tokens(vocabulary_size=given.vocabulary_size, actions=wanted.actions)
    return given.part(tokens, decoding=decoding_of(wanted.head))


def check_sizes(record: OpenVLARecord, config: OpenVLAConfig, folder: str) -> None:
    """Refuse pictures and codes that the model in `folder` cannot read.

    Raises:
        ValueError: naming both sides.
    """
    rule, size = record.image, record.action_tokens.vocabulary_size
    sides = [(rule.height, rule.width)] * len(rule.means)
    if sides != [(side, side) for side in config.image_sizes] or size > config.vocabulary_size:
        raise ValueError(
            f"contract: {len(rule.means)} pictures of {rule.height} x {rule.width} and codes below {size}; {folder} reads squares "
            f"of {config.image_sizes} and has {config.vocabulary_size} ids: take both from one training run."
        )
