"""The tiny default: the published structure at 2.7 million parameters; and tokenizers, trained on the tasks' sentences."""

import math
import string
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace, Punctuation, Sequence, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.model import OpenVLA

NUM_TEXT_IDS, NUM_CODES = 256, 256
VOCABULARY_SIZE = NUM_TEXT_IDS + NUM_CODES
"""V: ids for text, then action codes."""
PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
"""OpenVLA's (openvla-spec)."""


def tiny_config() -> OpenVLAConfig:
    """A plain ViT (64 px, patches of 16 px, the second of three blocks), 16 patches, and a Llama of four layers."""
    vision = {
        "patch_size": 16,
        "embed_dim": 128,
        "depth": 3,
        "num_heads": 4,
        "mlp_ratio": 3.0,
        "class_token": False,
        "global_pool": "avg",
    }
    language = {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 512,
        "vocab_size": VOCABULARY_SIZE + 64,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "pad_token_id": VOCABULARY_SIZE,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return OpenVLAConfig(
        timm_model_ids=["vit_tiny_patch16_224"],
        image_sizes=[64],
        timm_kwargs=[vision],
        text_config=language,
        proprio_dimension=4,
        prompt_attention="bidirectional",  # it learns in parallel decoding, where every position sees every other
    )


def smooth_action_rows(model: OpenVLA, *, frequency: float = 5.0, size: float = 0.07) -> None:
    """Draw the rows of `lm_head` that stand for action codes so that neighbouring bins begin alike, in place.

    Row i is size * cos(2 pi (f i / n + phase)), with a random low frequency |f| ~ `frequency` and a phase for each channel.
    """
    head, size_of_text = model.language_model.lm_head.weight, model.config.vocabulary_size - model.config.n_action_bins
    rows = torch.arange(size_of_text, model.config.vocabulary_size)
    position = torch.arange(len(rows))[:, None] / len(rows)
    cycles = frequency * torch.randn(1, head.shape[1]).abs()
    with torch.no_grad():
        head[rows] = size * torch.cos(2 * math.pi * (cycles * position + torch.rand(1, head.shape[1])))


def train_tokenizer(sentences: Iterable[str], *, text_ids: int = NUM_TEXT_IDS) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer over printable ASCII in which the words of `sentences` are single pieces.

    Ids: 0 unknown, 1 start, 2 end (as Llama's), then text below `text_ids`; 256 more are left to the action codes, and padding
    is the id behind them, V.
    """
    alphabet = [*"▁\n", *string.ascii_letters, *string.digits, *string.punctuation]
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = Sequence([Split(Regex("\n"), "isolated"), Metaspace(), Punctuation()])
    tokenizer.decoder = MetaspaceDecoder()
    specials = ["<unk>", "<s>", "</s>"]
    trainer = BpeTrainer(vocab_size=text_ids, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((PROMPT.format(instruction=sentence) for sentence in sentences), trainer)
    fillers = [f"<code_{index}>" for index in range(tokenizer.get_vocab_size(), text_ids + NUM_CODES)]
    tokenizer.add_special_tokens([*fillers, "<pad>"])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
