"""Tokenizer files that the original code reads too (tokenizers 0.19, transformers 4.40)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model")
_LOCAL = ("backend", "is_local", "local_files_only")
"""What today's transformers notes about its own process."""


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `tokenizer` into an existing folder.

    Merges are written as the older library wants them, `"a b"`, which today's reads as well as its own `["a", "b"]`; the class is
    the one that both know.
    """
    tokenizer.save_pretrained(folder)
    _rewrite(folder / "tokenizer_config.json", _with_a_known_class)
    _rewrite(folder / "tokenizer.json", _with_joined_merges)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer of `source`, byte for byte."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=1, ensure_ascii=False) + "\n")


def _with_a_known_class(record: dict[str, Any]) -> dict[str, Any]:
    """The old class adds token types where it is not told the inputs, and the original's `predict_action` refuses those."""
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    return {key: value for key, value in record.items() if key not in _LOCAL} | known


def _with_joined_merges(record: dict[str, Any]) -> dict[str, Any]:
    """As it was, if the pieces are no pairs of a byte-pair encoding, or cannot be joined by a space."""
    pairs = record["model"].get("merges", [])
    if any(" " in piece for pair in pairs if isinstance(pair, list) for piece in pair):
        return record
    joined = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    return record | {"model": record["model"] | ({"merges": joined} if pairs else {})}
