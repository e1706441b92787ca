"""OpenVLA models of any size that learn from nothing: what `conf/model/small.yaml` names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vla_tune.data.pipeline import ModelPart
from vla_tune.models.base import Outline, Wanted
from vla_tune.models.foreign import check_plain
from vla_tune.models.openvla.additions import Addition, extended, module_patterns
from vla_tune.models.openvla.checkpoint import check_sizes, given_part
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.load import load_tokenizer
from vla_tune.models.openvla.model import OpenVLA
from vla_tune.models.openvla.outline import outline
from vla_tune.models.openvla.record import Given, ImageRule
from vla_tune.models.openvla.save import write_checkpoint
from vla_tune.models.openvla.tiny import NUM_CODES, smooth_action_rows
from vla_tune.models.openvla.tokenizer_file import copy_tokenizer
from vla_tune.models.precision import cast, choose_attention
from vla_tune.models.sealed import seal
from vla_tune.schema import Contract, content_hash

NOTHING = "nothing"
"""The folder of a model that has none: its weights are drawn."""
WORDS = Path(str(files("vla_tune") / "assets" / "words"))
"""A tokenizer (`tiny.train_tokenizer`, 768 ids of text) in which the words of the tasks of LIBERO, LIBERO-PRO, Meta-World, PushT
and the tabletop are single pieces; others are spelled."""
_BASES = ("fp32", "bf16")
_PLACES = 0.5
"""Standard deviation of what tells a patch's place, beside patches of about 1."""
_RESIDUAL = ("o_proj", "down_proj", "attn.proj", "mlp.fc2")
"""What adds to the residual stream."""
_GREY = ((0.5, 0.5, 0.5),)


@dataclass(frozen=True)
class DrawnOpenVLA:
    """The published structure (arXiv 2406.09246, §3) in sizes of one's own, before it learned anything: a seed draws its weights.

    All of it learns, so its adapter is `Full`; what `write` wrote is an `OpenVLACheckpoint` like any other.

    Raises:
        ValueError: a folder of weights is named, `base` is a format of frozen weights, or the configuration asks for what no
            model has.
    """

    folder: str = NOTHING
    base: str = "fp32"
    seed: int = 0
    """From which weights are drawn. With the configuration it is all that identifies a model that learned nothing."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `OpenVLAConfig`; of the language model, its sizes: the vocabulary follows from the tokenizer."""
    prompt: str = "{instruction}"
    """The template around the instruction."""
    attention: str = "auto"
    """The attention kernel (`models.precision.ATTENTIONS`)."""
    additions: Mapping[str, Addition] = field(default_factory=dict)
    """By name, what is put beside it."""

    def __post_init__(self) -> None:
        if self.folder != NOTHING:
            raise ValueError(
                f"model.folder={self.folder}: this model is drawn from a seed. One that was written goes on as "
                f"model=tiny model.folder={self.folder}."
            )
        if self.base not in _BASES:
            raise ValueError(f"base={self.base}: all of a drawn model learns, from nothing: choose adapter=full.")
        check_plain(self.config, "model.config")

    @property
    def path(self) -> Path:
        """There is no such folder."""
        return Path(self.folder)

    @cached_property
    def processor(self) -> PreTrainedTokenizerBase:
        """The text tokenizer."""
        return load_tokenizer(WORDS)

    @property
    def vocabulary_size(self) -> int:
        """V: the id behind the action codes is padding."""
        return len(self.processor) - 1

    @cached_property
    def _config(self) -> OpenVLAConfig:
        tokenizer, given = self.processor, dict(self.config)
        rows = self.vocabulary_size + OpenVLAConfig().pad_to_multiple_of
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        text = {"vocab_size": rows, "max_position_embeddings": tokenizer.model_max_length, **ids, **given.pop("text_config", {})}
        config = OpenVLAConfig(**given, text_config=text, n_action_bins=NUM_CODES)
        return extended(config, self.additions.values())

    @property
    def _given(self) -> Given:
        """Whole pictures at the towers' size, in [-1, 1]."""
        sizes = self._config.image_sizes
        if len(set(sizes)) != 1 or len(sizes) != len(self._config.timm_model_ids):
            raise ValueError(f"model.config.image_sizes={sizes}: name one size for each tower, the same for all.")
        side, towers = sizes[0], len(sizes)
        rule = ImageRule(
            height=side, width=side, resize="resize-naive", center_crop_area=1.0, means=_GREY * towers, deviations=_GREY * towers
        )
        return Given(image=rule, prompt=self.prompt, vocabulary_size=self.vocabulary_size)

    def load(self, *, device: torch.device | str) -> OpenVLA:
        """The model in evaluation mode; it is drawn on the CPU, and no other random number moves."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = OpenVLA(self._config)
            _draw(model)
            smooth_action_rows(model)
        model.untrained = module_patterns(self.additions.values())
        cast(model, self.base, device)
        choose_attention(model, device, self.attention)
        return model.eval()

    def part(self, wanted: Wanted) -> ModelPart:
        """Pictures and prompt as configured, codes and head as the run wants them.

        Raises:
            ValueError: it wants neither codes nor values.
        """
        return given_part(self._given, wanted, self.folder)

    def interface(self, contract: Contract, *, head: Callable[..., Any] | None = None) -> OpenVLAInputs:
        """What the contract says, behind the tokenizer.

        Raises:
            ValueError: it is another family's, says what cannot be, or is for a model of other sizes.
        """
        inputs = OpenVLAInputs.of(contract, self.processor, head=head)
        check_sizes(inputs.record, self._config, self.folder)
        return inputs

    def outline(self) -> Outline:
        """The architecture without its weights."""
        return outline(self._config, untrained=module_patterns(self.additions.values()))

    def content_hash(self) -> str:
        """SHA-256 of the seed and the configuration, from which the weights follow."""
        beside = sorted(map(str, self.additions.values()))
        return content_hash({"seed": self.seed, "config": dict(self.config), "additions": beside})

    def weights(self) -> Mapping[str, Tensor]:
        """All of them: they are few."""
        return dict(self.load(device="cpu").state_dict())

    def write(self, folder: Path, tensors: Mapping[str, Tensor], contract: Contract) -> None:
        """The same architecture with other weights, as an OpenVLA checkpoint, into an existing folder."""
        write_checkpoint(folder, tensors, config=self._config, tokenizer=self.processor, contract=contract)
        copy_tokenizer(WORDS, folder)
        seal(folder)


@torch.no_grad()
def _draw(model: OpenVLA) -> None:
    """Weights as large as their number of inputs asks, in place: published ones, of deviation 0.02, are for a width of thousands.

    At a width of 128 they leave so little of pictures and state in the language model that nothing is learned for hundreds of
    steps. What adds to the residual stream is smaller by the root of twice the number of blocks (GPT-2).
    """
    blocks = model.config.text_config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module is not model.get_output_embeddings():
            share = (2 * blocks) ** -0.5 if name.endswith(_RESIDUAL) else 1.0
            nn.init.normal_(module.weight, std=share * module.weight[0].numel() ** -0.5)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    for tower in model.vision_backbone.towers:
        if tower.pos_embed is not None:
            nn.init.normal_(tower.pos_embed, std=_PLACES)
