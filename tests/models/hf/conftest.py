"""A random tiny model of each class, with its own processor, written as a checkpoint folder.

The structure is that of the published checkpoints (towers, special tokens, chat template, unused rows); sizes are shrunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl import InternVLConfig, InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.paligemma import PaliGemmaConfig, PaliGemmaProcessor
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl import Qwen3VLConfig, Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor
from transformers.models.smolvlm import SmolVLMConfig, SmolVLMProcessor
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from vla_tune.data import build_pipeline
from vla_tune.data.collate import Batch, collate
from vla_tune.models.base import Wanted
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.hf import AppendedRows, HFCheckpoint
from vla_tune.schema import Camera, Contract, Embodiment
from vla_tune.tokens import BinTokenizer, pad_id, uniform_edges

TEXT_IDS = 400
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""How the published templates write a conversation."""
EYES = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4}
"""Of Qwen's vision towers."""


@dataclass(frozen=True)
class Family:
    """One class of models."""

    name: str
    processor: Callable[[], ProcessorMixin]
    config: Callable[[PreTrainedTokenizerFast], Any]
    side: int
    """Of an image, in pixels."""
    layout: str = "chat"
    image_options: dict[str, bool] = field(default_factory=dict)


def tokenizer(*special: str, eos: str, pad: str, **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose special tokens come after its text, as in the published ones."""
    words = ["what action should the robot take to lift the red block", "push the green block to the left", "user assistant"]
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(words * 3, BpeTrainer(vocab_size=TEXT_IDS, initial_alphabet=alphabet, show_progress=False))
    tokens = list(dict.fromkeys([*special, *named.values(), eos, pad]))
    backend.add_special_tokens(tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token=pad, bos_token=named.pop("bos", None), extra_special_tokens=named
    )


QWEN = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def qwen_ids(text: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>"}
    return {key: text.convert_tokens_to_ids(token) for key, token in names.items()}


def language(text: PreTrainedTokenizerFast, *, rows: int, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": rows,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "pad_token_id": text.pad_token_id,
        "eos_token_id": text.eos_token_id,
        "bos_token_id": text.bos_token_id,
    } | changes


def qwen_processor(made: Callable[..., ProcessorMixin], videos: Callable[[], Any]) -> ProcessorMixin:
    text = tokenizer(*QWEN, eos="<|im_end|>", pad="<|endoftext|>")
    images = Qwen2VLImageProcessor(patch_size=4, size={"shortest_edge": 256, "longest_edge": 65536}, **HALF)
    return made(images, text, videos(), chat_template=CHAT.replace("IMAGE", QWEN_IMAGE))


def qwen_config(text: PreTrainedTokenizerFast, made: Callable[..., Any], eyes: dict[str, Any], **more: Any) -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0} | more.pop("rope", {})
    words = language(text, rows=TEXT_IDS + 320, rope_parameters=rope)
    return made(text_config=words, vision_config=EYES | eyes, **qwen_ids(text), **more)


def qwen2_5_vl_processor() -> ProcessorMixin:
    return qwen_processor(Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)


def qwen2_5_vl_config(text: PreTrainedTokenizerFast) -> Any:
    eyes = {"window_size": 16, "fullatt_block_indexes": [1]}
    return qwen_config(text, Qwen2_5_VLConfig, eyes, tie_word_embeddings=False)


def qwen3_vl_processor() -> ProcessorMixin:
    return qwen_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor)


def qwen3_vl_config(text: PreTrainedTokenizerFast) -> Any:
    eyes = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    return qwen_config(text, Qwen3VLConfig, eyes, tie_word_embeddings=True, rope={"mrope_interleaved": True})


def paligemma_processor() -> ProcessorMixin:
    text = tokenizer(bos="<bos>", eos="<eos>", pad="<pad>")
    return PaliGemmaProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}, image_seq_length=16, **HALF), text)


def paligemma_config(text: PreTrainedTokenizerFast) -> Any:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 64,
        "vision_use_head": False,
    }
    rows = -(-len(text) // 64) * 64
    return PaliGemmaConfig(
        text_config=language(text, rows=rows) | {"model_type": "gemma"},
        vision_config=vision,
        projection_dim=64,
        hidden_size=64,
        image_token_id=text.convert_tokens_to_ids("<image>"),
        pad_token_id=text.pad_token_id,
    )


def smolvlm_processor() -> ProcessorMixin:
    named = ("<fake_token_around_image>", "<image>", "<global-img>", "<video>", "<row_1_col_1>")
    text = tokenizer("<|im_start|>", "<|im_end|>", *named, eos="<end_of_utterance>", pad="<pad>")
    images = SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, **HALF)
    videos = SmolVLMVideoProcessor(num_frames=4, fps=1)
    return SmolVLMProcessor(images, text, videos, image_seq_len=4, chat_template=CHAT.replace("IMAGE", "<image>"))


def smolvlm_config(text: PreTrainedTokenizerFast) -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return SmolVLMConfig(
        text_config=language(text, rows=len(text)) | {"model_type": "llama"},
        vision_config=vision,
        scale_factor=2,
        image_token_id=text.convert_tokens_to_ids("<image>"),
        pad_token_id=text.pad_token_id,
        tie_word_embeddings=False,
    )


def internvl_processor() -> ProcessorMixin:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    text = tokenizer("<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>", **named)
    images = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, **HALF)
    template = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    return InternVLProcessor(images, text, InternVLVideoProcessor(), image_seq_length=4, chat_template=template)


def internvl_config(text: PreTrainedTokenizerFast) -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [32, 32],
        "patch_size": [8, 8],
    }
    return InternVLConfig(
        text_config=language(text, rows=TEXT_IDS + 320) | {"model_type": "qwen2"},
        vision_config=vision,
        image_token_id=text.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=True,
    )


FAMILIES = (
    Family("qwen2_5_vl", qwen2_5_vl_processor, qwen2_5_vl_config, side=32),
    Family("qwen3_vl", qwen3_vl_processor, qwen3_vl_config, side=32),
    Family("paligemma", paligemma_processor, paligemma_config, side=32, layout="prefix"),
    Family("smolvlm", smolvlm_processor, smolvlm_config, side=32, image_options={"do_image_splitting": False}),
    Family("internvl", internvl_processor, internvl_config, side=32, image_options={"crop_to_patches": False}),
)


def write(family: Family, folder: Path) -> None:
    """A checkpoint folder as one downloads it; weights are large enough to tell inputs apart."""
    processor = family.processor()
    torch.manual_seed(0)
    config = family.config(processor.tokenizer)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


COUNT = 32
"""Action codes."""
SENTENCES = ["lift the red block", "push the green block to the left", "touch the blue block"]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Path]:
    """The checkpoint folder of a family, written once."""

    @cache
    def written(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        write(next(family for family in FAMILIES if family.name == name), folder)
        return folder

    return lambda family: written(family.name)


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    return {family.name: family for family in FAMILIES}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def checkpoint_of(folder_of: Callable[[Family], Path]) -> Callable[..., HFCheckpoint]:
    def made(family: Family, **changes: Any) -> HFCheckpoint:
        options: dict[str, Any] = {
            "folder": str(folder_of(family)),
            "height": family.side,
            "width": family.side,
            "layout": family.layout,
            "image_options": family.image_options,
            "prompt": "What action should the robot take to {instruction}?",
            "rows": AppendedRows(count=COUNT),
            "base": "fp32",
        }
        return HFCheckpoint(**options | changes)

    return made


@pytest.fixture
def checkpoint(family: Family, checkpoint_of: Callable[..., HFCheckpoint]) -> HFCheckpoint:
    return checkpoint_of(family)


def wanted_of(body: Embodiment, edges: np.ndarray, head: Any = AutoregressiveTokenHead) -> Wanted:
    """Codes between `edges`."""

    def bins(*, vocabulary_size: int, actions: Any) -> BinTokenizer:
        return BinTokenizer(edges, vocabulary_size)

    return Wanted(embodiment=body, horizon=2, actions=SimpleNamespace(chunks=None, counted=None), tokens=bins, head=head)


@pytest.fixture
def wanted() -> Callable[..., Wanted]:
    return wanted_of


@pytest.fixture
def contract_for(tiny_contract: Contract) -> Callable[..., Contract]:
    """A contract of two cameras, with `COUNT` codes one after the other."""

    def made(checkpoint: HFCheckpoint, **changes: Any) -> Contract:
        cameras = tuple(Camera(role=role, key=f"observation.images.{role}", height=64, width=64) for role in ("front", "wrist"))
        options: dict[str, Any] = {
            "embodiment": replace(tiny_contract.embodiment, cameras=cameras),
            "horizon": 2,
            "execute_steps": 2,
        }
        body = options["embodiment"]
        part = checkpoint.part(wanted_of(body, uniform_edges(COUNT)))
        return replace(tiny_contract, resolution=part.resolution, model=dict(part.record), **options | changes)

    return made


def raw_samples(contract: Contract, sentences: Sequence[str] = SENTENCES, *, seed: int = 0) -> list[dict[str, Any]]:
    """Demonstrations as a dataset gives them: images, states and chunks at random."""
    noise = np.random.default_rng(seed)
    body, column = contract.embodiment, contract.statistics.action
    return [
        {camera.key: noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) for camera in body.cameras}
        | {body.state_key: noise.uniform(0, 0.1, 4).astype(np.float32), "instruction": sentence, "index": np.array([row, 0])}
        | {"actions": noise.uniform(column.q01, column.q99, (contract.horizon, 4)).astype(np.float32)}
        | {"action_mask": np.ones((contract.horizon, 4), bool)}
        for row, sentence in enumerate(sentences)
    ]


@pytest.fixture
def samples() -> Callable[..., list[dict[str, Any]]]:
    return raw_samples


@pytest.fixture
def batch_for(contract_for: Callable[..., Contract]) -> Callable[[HFCheckpoint], Batch]:
    """Three labelled samples of different lengths."""

    def made(checkpoint: HFCheckpoint) -> Batch:
        contract = contract_for(checkpoint)
        pipeline = build_pipeline(contract, checkpoint.interface(contract))
        return collate([pipeline(sample) for sample in raw_samples(contract)], pad_id=pad_id(checkpoint.processor), multiple=16)

    return made
