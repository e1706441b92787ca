"""What the text files of a checkpoint may ask for: they may be a stranger's, and transformers and timm do much that they say."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vla_tune.models.files import CONFIG_FILE, existing, read_record

TOKENIZER_FILE = "tokenizer.json"
_ATTENTIONS = (None, "eager", "sdpa", "flash_attention_2")
_ELSEWHERE = ("quantization_config", "transformers_weights", "kernel_config", "use_kernels", "use_pretrained_backbone")
"""Keys by which other code or other weights than those of the folder come in."""
_COUNTS = re.compile(r"(layers|depths?|blocks|experts|stages)$")
_MOST, _LARGEST, _LONGEST = 4096, 2**20, 2**27
"""Of layers and the like; of a width; of anything else that is counted, as positions are."""
_MOST_GROWTH = 64
"""By how much a tokenizer may make a text longer before it cuts it into pieces."""


def plain_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, asks for code or weights from elsewhere, or for sizes that no model has.
    """
    path = existing(folder / CONFIG_FILE)
    record = read_record(path, "what the model is built like")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds an adapter beside a base, which is another model: merge it, or take the base's folder.")
    check_plain(record, path)
    return record


def check_plain(record: Mapping[str, Any], source: Path | str) -> None:
    """Refuse a model's configuration that is more than sizes and names; `source` is named in errors.

    Raises:
        ValueError: it asks for code or weights from elsewhere, or for sizes that no model has.
    """
    for key, value in _leaves(record):
        _check_leaf(key, value, source)


def check_tokenizer(folder: Path) -> None:
    """That `tokenizer.json`, if there is one, makes no long text of a short one.

    Raises:
        ValueError: it is damaged, or does.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return
    record = read_record(path, "how text becomes ids")
    growth = _growth(record.get("normalizer")) * _growth(record.get("pre_tokenizer"))
    padding, added = record.get("padding"), _added(record.get("post_processor"))
    sizes = [value for _, value in _leaves(padding) if isinstance(value, int)]
    if growth > _MOST_GROWTH or added > _MOST or max(sizes, default=0) > _LARGEST:
        raise ValueError(f"{path} makes a text of any length out of a short one: it is no tokenizer of a model; download it again.")


def _check_leaf(key: str, value: Any, source: Path | str) -> None:
    refused = f"{source} has {key}={str(value)[:80]!r}"
    if key.endswith(("attn_implementation", "attn_implementation_internal", "experts_implementation")) and value not in _ATTENTIONS:
        raise ValueError(f"{refused}, which is code from elsewhere: remove it, and choose model.attention.")
    if key in _ELSEWHERE and value not in (None, False):
        raise ValueError(f"{refused}: weights and code come from the folder itself. Remove it, and choose model.base.")
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > _largest(key):
        raise ValueError(f"{refused}, more than any model has: take the file of the checkpoint again.")


def _largest(key: str) -> int:
    if _COUNTS.search(key):
        return _MOST
    return _LARGEST if re.search(r"(dims?|dimensions?|sizes?|heads|widths?)$", key) and key != "vocab_size" else _LONGEST


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, by the nearest key around it; the containers of forbidden keys too."""
    if isinstance(value, Mapping):
        if key in _ELSEWHERE:
            yield key, value
        for name, child in value.items():
            yield from _leaves(child, str(name))
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child, key)
    else:
        yield key, value


def _growth(step: Any) -> int:
    """By what factor a step of a tokenizer makes a text longer, at most."""
    if not isinstance(step, Mapping):
        return 1
    factor = 1
    for child in step.get("normalizers") or step.get("pretokenizers") or ():
        factor = min(factor * _growth(child), _MOST_GROWTH + 1)
    if step.get("type") == "ByteLevel":
        return 2
    if step.get("type") == "Prepend":
        return 1 + len(str(step.get("prepend", "")))
    if step.get("type") == "Replace":
        pattern, content = step.get("pattern"), len(str(step.get("content", "")))
        plain = len(str(pattern.get("String", ""))) if isinstance(pattern, Mapping) else 0
        return max(1, -(-content // plain)) if plain else 1 + content  # an expression can match between all letters
    return factor


def _added(step: Any) -> int:
    """How many ids a post-processor puts around a text."""
    if not isinstance(step, Mapping):
        return 0
    special = step.get("special_tokens")
    ids = {name: len(token.get("ids", ())) for name, token in special.items()} if isinstance(special, Mapping) else {}
    items = [item for part in ("single", "pair") for item in step.get(part) or () if isinstance(item, Mapping)]
    own = sum(ids.get(item.get("SpecialToken", {}).get("id"), 0) for item in items)
    return own + sum(_added(child) for child in step.get("processors") or ())
