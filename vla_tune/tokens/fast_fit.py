"""FAST tokenizers fitted on a run's own chunks, or read from a file."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from vla_tune.schema import read_json, read_object, to_record
from vla_tune.tokens.actions import TrainingActions
from vla_tune.tokens.fast import FastTokenizer, quantised
from vla_tune.tokens.pieces import byte_letters
from vla_tune.tokens.records import FastTokens, fast_tokens_from_record

_PUBLISHED = ("processor_config.json", "tokenizer.json")
_SURROGATES = 0xD800
"""From here on there are code points that are no characters."""


def fit_fast(num_codes: int, scale: float, *, vocabulary_size: int, actions: TrainingActions) -> FastTokenizer:
    """A tokenizer for the training chunks that also knows every other chunk in [-1, 1].

    Its alphabet reaches to +-scale * sqrt(T) * m, where m is 1 or the largest absolute value of the data: no chunk of values up
    to m has a larger coefficient (Cauchy-Schwarz; a row of the orthonormal DCT has norm 1). Merges cross the boundaries that the
    original inherits from GPT-2, between digits, letters and spaces, which mean nothing in a text of coefficients.

    Args:
        num_codes: At most so many; fewer where the data have no more pairs that occur twice.
        scale: Of the coefficients before rounding.
        vocabulary_size: V.
        actions: The training chunks, normalised.

    Raises:
        ValueError: the alphabet alone needs more codes.
    """
    coefficients = quantised(actions.chunks, scale)
    bound = math.ceil(scale * math.sqrt(coefficients.shape[1]) * max(1.0, float(np.abs(actions.chunks).max())))
    used = {byte for symbol in _alphabet(-bound, bound) for byte in symbol.encode()}
    bpe = _train(coefficients + bound, num_codes, alphabet=[byte_letters()[byte] for byte in sorted(used)], use_regex=False)
    return _tokenizer(coefficients, bpe, scale=scale, min_token=-bound, vocabulary_size=vocabulary_size)


def fit_fast_original(num_codes: int, scale: float, *, vocabulary_size: int, actions: TrainingActions) -> FastTokenizer:
    """The tokenizer that the published code fits: the same tokens and merges.

    Its alphabet is that of the data alone (and, in vain, the same symbols before they are written as bytes), so a chunk that is
    not in the data may have no encoding; here that is an error, there it becomes another chunk.

    Raises:
        ValueError: the alphabet alone needs more codes.
    """
    coefficients = quantised(actions.chunks, scale)
    low, high = int(coefficients.min()), int(coefficients.max())
    bpe = _train(coefficients - low, num_codes, alphabet=_alphabet(low, high), use_regex=True)
    return _tokenizer(coefficients, bpe, scale=scale, min_token=low, vocabulary_size=vocabulary_size)


def read_fast(file: str, *, vocabulary_size: int, actions: TrainingActions) -> FastTokenizer:
    """The tokenizer that `scripts/tokenizer.py` wrote, or that of a published FAST folder, whose code is not read.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is damaged, for chunks of another shape, or has no symbols for the training chunks.
    """
    path, shape = Path(file), actions.chunks.shape[1:]
    fields = _published(path, shape) if path.is_dir() else _own(path)
    record = fast_tokens_from_record({**fields, "vocabulary_size": vocabulary_size}, source=str(path))
    try:
        tokenizer = FastTokenizer(record)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): download or fit the tokenizer again.") from None
    if shape != (record.horizon, record.action_dimension):
        raise ValueError(
            f"{path} is for chunks of {record.horizon} actions of {record.action_dimension} dimensions, the run's are "
            f"{shape[0]} of {shape[1]}: set horizon={record.horizon}, or fit again with scripts/tokenizer.py horizon={shape[0]}."
        )
    tokenizer.symbols_of(actions.chunks)
    return tokenizer


def write_fast(path: Path, tokenizer: FastTokenizer, report: Mapping[str, Any]) -> None:
    """The tokenizer without the size of a vocabulary, and how it was fitted."""
    tokens = {key: value for key, value in to_record(tokenizer.to_record()).items() if key != "vocabulary_size"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"tokens": tokens, "fit": dict(report)}, indent=1) + "\n")


def _own(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: write it with scripts/tokenizer.py to={path}.")
    fields = read_json(path)
    tokens = fields.get("tokens") if isinstance(fields, dict) else None
    if not isinstance(tokens, dict):
        raise ValueError(f"{path} holds no tokenizer: write it with scripts/tokenizer.py to={path}.")
    return tokens


def _published(folder: Path, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """What the original's `processor_config.json` and `tokenizer.json` say; a shape that is left open there is the chunks'."""
    for name in _PUBLISHED:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: a published FAST tokenizer is {' and '.join(_PUBLISHED)}.")
    said = read_object(folder / _PUBLISHED[0])
    if missing := sorted({"scale", "min_token"} - said.keys()):
        raise ValueError(f"{folder / _PUBLISHED[0]} has no {', '.join(missing)}: it is no FAST tokenizer's; download it again.")
    horizon, dimension = (said.get(name) or given for name, given in zip(("time_horizon", "action_dim"), shape, strict=True))
    scale = float(said["scale"]) if type(said["scale"]) in (int, float) else said["scale"]
    own = {"kind": "fast", "scale": scale, "min_token": said["min_token"], "horizon": horizon, "action_dimension": dimension}
    return own | {"bpe": json.dumps(read_object(folder / _PUBLISHED[1]))}


def _train(symbols: Int[np.ndarray, "N T A"], num_codes: int, *, alphabet: Sequence[str], use_regex: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    setattr(tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex))  # noqa: B010 (untyped)
    setattr(tokenizer, "decoder", decoders.ByteLevel())  # noqa: B010
    trainer = BpeTrainer(
        vocab_size=num_codes, min_frequency=2, show_progress=False, initial_alphabet=list(alphabet), max_token_length=10_000
    )
    tokenizer.train_from_iterator(_texts(symbols), trainer)
    if (size := tokenizer.get_vocab_size()) > num_codes:
        raise ValueError(
            f"num_codes={num_codes}, but the alphabet of the chunks' coefficients alone has {size}: raise tokens.num_codes or "
            "lower tokens.scale."
        )
    return tokenizer.to_str()


def _alphabet(low: int, high: int) -> list[str]:
    """One symbol for each coefficient."""
    if high - low >= _SURROGATES:
        raise ValueError(f"the coefficients reach from {low} to {high}, more than there are characters: lower tokens.scale.")
    return [chr(symbol) for symbol in range(high - low + 1)]


def _texts(symbols: Int[np.ndarray, "N T A"]) -> Iterable[str]:
    return ("".join(map(chr, chunk.ravel().tolist())) for chunk in symbols)


def _tokenizer(
    coefficients: Int[np.ndarray, "N T A"], bpe: str, *, scale: float, min_token: int, vocabulary_size: int
) -> FastTokenizer:
    _, horizon, dimension = coefficients.shape
    return FastTokenizer(
        FastTokens(
            kind="fast",
            vocabulary_size=vocabulary_size,
            scale=float(scale),
            min_token=min_token,
            horizon=horizon,
            action_dimension=dimension,
            bpe=bpe,
        )
    )
