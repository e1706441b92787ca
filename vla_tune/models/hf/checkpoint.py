"""Checkpoints of transformers, from a folder or the hub: what `conf/model` names."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.core_model_loading import revert_weight_conversion

from vla_tune.data.pipeline import ModelPart
from vla_tune.models.base import Outline, Wanted
from vla_tune.models.files import CONFIG_FILE, existing, weight_files
from vla_tune.models.finite import check_finite
from vla_tune.models.foreign import check_tokenizer, plain_config
from vla_tune.models.four_bits import FOUR_BITS
from vla_tune.models.hashes import cache_folder, quantized_copy, remembered_hash
from vla_tune.models.heads import decoding_of
from vla_tune.models.hf.inputs import HFInputs, check_codes, processor_hash
from vla_tune.models.hf.model import HFVLA
from vla_tune.models.hf.outline import outline
from vla_tune.models.hf.record import DECODING, FAMILY, HFRecord, ProcessorRule, record_of
from vla_tune.models.hf.rows import ReservedRows, Rows, vocabulary_modules
from vla_tune.models.hf.template import check_template
from vla_tune.models.hub import checkpoint_folder
from vla_tune.models.nf4 import NF4, quantizable, quantize, rounded
from vla_tune.models.precision import cast, check_format, choose_attention, weight_dtype
from vla_tune.models.sealed import seal, unbroken
from vla_tune.models.weight_files import SHARD_BYTES, write_weights
from vla_tune.models.weights import Weights
from vla_tune.schema import Contract, to_record
from vla_tune.tokens import Processor, text_tokenizer

HF_NF4 = NF4(targets=("language_model.layers.*",))
"""The linear layers of the language model's blocks, as for OpenVLA."""
_ROWS = ("action_rows.inputs.weight", "action_rows.outputs.weight")


@dataclass(frozen=True, kw_only=True)
class HFCheckpoint:
    """An image-text-to-text model of transformers, how it is spoken to and where action codes go; read when asked for."""

    folder: str
    """A folder, or an id of the hub."""
    height: int
    width: int
    """Images are resized to this."""
    layout: Literal["chat", "prefix"]
    """How prompt and images are put before the model (`models.hf.inputs.LAYOUTS`)."""
    image_options: Mapping[str, bool]
    """What its processor is told at every call."""
    prompt: str
    """The template around `{instruction}` and, if wanted, `{state}`."""
    rows: Rows
    """Where action codes go."""
    base: str = "bf16"
    """The weight format (`models.precision.FORMATS`)."""
    nf4: NF4 = HF_NF4
    """What a 4-bit base means."""
    attention: str = "auto"
    """The attention kernel (`models.precision.ATTENTIONS`)."""
    cache: str | None = None
    """A folder for 4-bit copies and hashes of large checkpoints; without it they are made each time."""
    additions: Mapping[str, Any] = field(default_factory=dict)
    """None: what `models.openvla.additions` puts beside a base is OpenVLA's."""

    def __post_init__(self) -> None:
        if self.additions:
            raise ValueError(
                f"{', '.join(self.additions)}: only OpenVLA models take additions; those of transformers predict codes one after "
                "the other: choose head=autoregressive, and no addition."
            )

    @classmethod
    def merged(cls, folder: str, *, base: str = "bf16") -> "HFCheckpoint":
        """The checkpoint that `write` made, as its contract says."""
        record = record_of(Contract.load(Path(folder)), source=folder)
        rule = record.image
        rows = ReservedRows(size=record.action_tokens.vocabulary_size, count=rule.num_codes, tokens=rule.code_tokens)
        return cls(
            folder=folder,
            height=rule.height,
            width=rule.width,
            layout=rule.layout,
            image_options=rule.image_options,
            prompt=record.prompt,
            rows=rows,
            base=base,
        )

    @cached_property
    def path(self) -> Path:
        """Where the files lie, which are as they were written and ask for nothing from elsewhere."""
        folder = unbroken(checkpoint_folder(self.folder))
        plain_config(folder)
        return folder

    def load(self, *, device: torch.device | str) -> HFVLA:
        """The model on `device`, in evaluation mode.

        Raises:
            ValueError: weights are missing, left over or of another shape, or there are no rows for the codes.
        """
        check_format(self.base, device)
        network = self._network("auto" if self.base in FOUR_BITS else weight_dtype(self.base))
        self.rows.prepare(network)
        choose_attention(network, device, self.attention)
        model = HFVLA(network, first_code=self._end - self.rows.count, num_codes=self.rows.count)
        if self.base in FOUR_BITS:
            quantize(model, self.nf4, base=self.base, copy=quantized_copy(self.path, self.nf4, self._cache), device=device)
        cast(model, self.base, device)
        nn.Module.to(network, device)
        check_finite(model.named_parameters(), self.folder)
        return model.eval()

    @property
    def processor(self) -> Processor:
        """The model's own."""
        return self._processor

    @cached_property
    def _processor(self) -> ProcessorMixin:
        check_tokenizer(self.path)
        processor = AutoProcessor.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        if not isinstance(processor, ProcessorMixin):
            raise ValueError(f"{self.folder} has a {type(processor).__name__}, which reads no images: name an image-text model.")
        check_template(processor.chat_template, self.folder)
        return processor

    @property
    def vocabulary_size(self) -> int:
        """V, with the rows of the codes."""
        return self._end

    def part(self, wanted: Wanted) -> ModelPart:
        """Images, prompt and codes.

        Raises:
            ValueError: text uses rows that are meant for codes, or codes are not wanted one after the other.
        """
        if wanted.tokens is None or wanted.head is None or decoding_of(wanted.head) != DECODING:
            decoding = None if wanted.head is None else decoding_of(wanted.head)
            raise ValueError(
                f"decoding={decoding!r}: models of transformers attend causally and decode one code after the other: choose "
                "head=autoregressive, and tokens."
            )
        check_codes(text_tokenizer(self._processor), self._end - self.rows.count, self._end, allowed=self.rows.tokens)
        tokens = wanted.tokens(vocabulary_size=self._end, actions=wanted.actions)
        rule = ProcessorRule(
            height=self.height,
            width=self.width,
            layout=self.layout,
            image_options=dict(self.image_options),
            num_codes=self.rows.count,
            code_tokens=tuple(self.rows.tokens),
            processor_hash=processor_hash(self._processor),
        )
        record = HFRecord(family=FAMILY, prompt=self.prompt, image=rule, action_tokens=tokens.to_record())
        return ModelPart(to_record(record), tokens.resolution)

    def interface(self, contract: Contract, *, head: Callable[..., Any] | None = None) -> HFInputs:
        """What the contract says, behind this folder's processor.

        Raises:
            ValueError: it is another family's, says what cannot be, or its codes are other rows than this model's.
        """
        inputs = HFInputs.of(contract, self._processor, head=head)
        codes = (inputs.record.image.num_codes, inputs.record.action_tokens.vocabulary_size)
        if codes != (self.rows.count, self._end):
            raise ValueError(
                f"contract: its codes are the {codes[0]} ids below {codes[1]}, those of {self.folder} the {self.rows.count} below "
                f"{self._end}: take both from one training run."
            )
        return inputs

    def outline(self) -> Outline:
        """The architecture without its weights: of a folder only, since nothing is downloaded for a plan.

        Raises:
            FileNotFoundError: the folder is not on this machine.
        """
        existing(Path(self.folder) / CONFIG_FILE)  # nothing is downloaded
        network = self._empty(torch.float32)
        model = HFVLA(network, first_code=self._end - self.rows.count, num_codes=self.rows.count)
        return outline(
            model,
            self._processor,
            height=self.height,
            width=self.width,
            layout=self.layout,
            image_options=self.image_options,
            nf4_targets=self.nf4.targets,
        )

    def content_hash(self) -> str:
        """Of the weights, and of the rows added to them."""
        return hashlib.sha256(f"{remembered_hash(self.path, self._cache)} {self.rows}".encode()).hexdigest()

    def weights(self) -> Mapping[str, Tensor]:
        """What the model multiplies with, weight by weight; those of the files stay mapped to them where the format is theirs."""
        four_bits = self.base in FOUR_BITS
        model = replace(self, base="bf16" if four_bits else self.base).load(device="cpu")
        quantized = {f"{name}.weight" for name in quantizable(model, self.nf4)} if four_bits else set()
        held = {name: weight.detach() for name, weight in model.named_parameters()}
        return Weights(held, lambda name: rounded(held[name], self.base) if name in quantized else held[name])

    def write(self, folder: Path, tensors: Mapping[str, Tensor], contract: Contract) -> None:
        """The same architecture with other weights, under their published names and the codes' rows in their places.

        Raises:
            ValueError: the names are not exactly those of the model.
        """
        network = self._empty(torch.float32)
        plain = self._published(network, tensors)
        first = plain[next(iter(plain))]
        shapes = {name: weight.to(first.dtype) for name, weight in network.named_parameters()}
        files = {as_file: name for name, shape in shapes.items() for as_file in revert_weight_conversion(network, {name: shape})}
        network.config.dtype = first.dtype
        network.config.save_pretrained(folder)
        if network.generation_config is not None:
            network.generation_config.save_pretrained(folder)
        self._processor.save_pretrained(folder)
        contract.save(folder)

        def made(as_file: str) -> Tensor:
            return revert_weight_conversion(network, {files[as_file]: plain[files[as_file]]})[as_file]

        write_weights(folder, revert_weight_conversion(network, shapes), Weights(files, made), shard_bytes=SHARD_BYTES)
        seal(folder)

    @property
    def _cache(self) -> Path | None:
        return cache_folder(self.cache)

    @cached_property
    def _config(self) -> Any:
        return AutoConfig.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)

    @property
    def _end(self) -> int:
        """V."""
        return self.rows.vocabulary_size(self._existing_rows)

    @property
    def _existing_rows(self) -> int:
        return int(self._config.get_text_config().vocab_size)

    def _network(self, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
        weight_files(self.path)  # transformers would read where an index points
        options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        loaded: Any = AutoModelForImageTextToText.from_pretrained(self.path, trust_remote_code=False, **options)
        network, found = loaded
        wrong = {kind: sorted(map(str, names))[:3] for kind, names in found.items() if names}
        if wrong:
            raise ValueError(f"{self.folder}: the weights do not fit the configuration ({wrong}). Download the checkpoint again.")
        return network

    def _empty(self, dtype: torch.dtype) -> PreTrainedModel:
        """The architecture with its codes' rows, without memory for its weights."""
        config = AutoConfig.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        config.get_text_config().vocab_size = max(self._existing_rows, self._end)
        with init_empty_weights():
            network = AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=False)
        network.tie_weights()
        return network

    def _published(self, network: PreTrainedModel, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights under the names of the empty `network`, the rows of the codes put back into their matrices."""
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        start = self._end - self.rows.count
        model = HFVLA(network, first_code=start, num_codes=self.rows.count)
        places = {names[id(parameter)]: name for name, parameter in model.named_parameters() if id(parameter) in names}
        own = [name for name in _ROWS if name in tensors]
        if missing := sorted(set(places.values()) ^ (tensors.keys() - set(own))):
            raise ValueError(f"the weights are not those of {self.folder}: {len(missing)} names differ, e.g. {missing[:3]}.")
        rows = dict(zip((names[id(module.weight)] for module in vocabulary_modules(network)), own, strict=False))

        def made(name: str) -> Tensor:
            tensor = tensors[places[name]]
            if name in rows:
                tensor = tensor.clone()
                tensor[start : self._end] = tensors[rows[name]]
            return tensor

        return Weights(places, made)
