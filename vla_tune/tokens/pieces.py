"""The tokens of a byte-level BPE as bytes, and which of them may follow which."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from vla_tune.schema import json_value

_BYTES = range(256)
_NEVER = np.iinfo(np.int64).max
_LARGEST_SYMBOL = 0xFFFF
"""UTF-8 beyond it takes four bytes; no quantised action comes near."""


@lru_cache(maxsize=1)
def byte_letters() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in _BYTES if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}


@dataclass(frozen=True, eq=False)
class Pieces:
    """What each token of a byte-level BPE stands for.

    A symbol is a character of the text. Beyond 127 it takes two or more bytes in UTF-8, and a token may begin or end inside it.
    """

    texts: tuple[bytes, ...]
    """By token. A token that is not written in byte letters stands for its own UTF-8, as in the `tokenizers` library."""
    own: Bool[np.ndarray, " N"]
    """Written in byte letters: what the encoder can produce."""

    @classmethod
    def read(cls, bpe: str) -> "Pieces":
        """The tokens of a `tokenizers` JSON.

        Raises:
            ValueError: it is no byte-level BPE without a normaliser, or its ids have gaps.
        """
        record = json_value(bpe, source="the byte-pair tokenizer")
        if not isinstance(record, dict):
            raise ValueError(f"the byte-pair tokenizer is a {type(record).__name__}: fit one with scripts/tokenizer.py.")
        kinds = (_kind(record, "model"), _kind(record, "pre_tokenizer"), _kind(record, "normalizer"))
        if kinds != ("BPE", "ByteLevel", None) or record.get("added_tokens") or record["pre_tokenizer"]["add_prefix_space"]:
            raise ValueError(
                f"the tokenizer is {kinds} with {len(record.get('added_tokens') or [])} added tokens; FAST needs a BPE with a "
                "ByteLevel pre-tokenizer without a prefix space, normaliser or added tokens: fit one with scripts/tokenizer.py."
            )
        vocabulary: dict[str, int] = record["model"]["vocab"]
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError(
                f"the ids of the {len(vocabulary)} tokens are not 0 to {len(vocabulary) - 1}: fit the tokenizer again."
            )
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        letters = {letter: byte for byte, letter in byte_letters().items()}
        own = np.array([all(letter in letters for letter in token) for token in tokens])
        texts = (
            bytes(letters[letter] for letter in token) if ours else token.encode() for token, ours in zip(tokens, own, strict=True)
        )
        return cls(tuple(texts), own)

    @cached_property
    def symbols(self) -> frozenset[int]:
        """Characters that can be written: each of their bytes has a token."""
        alphabet = {text[0] for text, own in zip(self.texts, self.own, strict=True) if own and len(text) == 1}
        return frozenset(symbol for symbol in _characters(alphabet) if set(chr(symbol).encode()) <= alphabet)

    @cached_property
    def bytes_per_symbol(self) -> int:
        """Of the longest."""
        return max((len(chr(symbol).encode()) for symbol in self.symbols), default=1)

    def join(self, tokens: Iterable[int]) -> bytes:
        """The text of the tokens."""
        return b"".join([self.texts[token] for token in tokens])

    def next_tokens(self, tokens: Sequence[int], *, length: int) -> Int[np.ndarray, " n"]:
        """Tokens that may follow in a text of `length` symbols; none where it is complete, or cannot become one any more.

        From any of them the text can be completed: every byte of every symbol has a token of its own.
        """
        complete, begun = self._state(self.join(tokens))
        return self._followers(begun, length - complete)

    def _state(self, text: bytes) -> tuple[int, bytes]:
        """Complete symbols, and the bytes of one that is not."""
        for back in range(1, min(len(text), 3) + 1):
            byte = text[-back]
            if byte >= 0xC0:
                width = 2 if byte < 0xE0 else 3
                if width > back:
                    return _count(text[:-back]), text[-back:]
            if byte < 0x80 or byte >= 0xC0:
                break
        return _count(text), b""

    def _followers(self, begun: bytes, left: int) -> Int[np.ndarray, " n"]:
        if begun not in self._needed:
            walks = (self._walk(begun, text) if own else None for text, own in zip(self.texts, self.own, strict=True))
            self._needed[begun] = np.array([_NEVER if walk is None else sum(walk) for walk in walks])
        return np.flatnonzero(self._needed[begun] <= left)

    @cached_property
    def _needed(self) -> dict[bytes, Int[np.ndarray, " N"]]:
        """By the bytes of an open symbol: the symbols that each token completes or opens."""
        return {}

    def _walk(self, begun: bytes, text: bytes) -> tuple[int, bool] | None:
        """The symbols that `text` completes behind `begun`, and whether it leaves one open; None where it cannot follow."""
        whole, openings = self._written
        completed, current = 0, begun
        for byte in text:
            current += bytes([byte])
            if current in whole:
                completed, current = completed + 1, b""
            elif current not in openings:
                return None
        return completed, bool(current)

    @cached_property
    def _written(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """The symbols as bytes, and all their beginnings."""
        whole = frozenset(chr(symbol).encode() for symbol in self.symbols)
        return whole, frozenset(text[:end] for text in whole for end in range(1, len(text)))


def _kind(record: dict[str, Any], part: str) -> str | None:
    return (record.get(part) or {}).get("type")


def _characters(alphabet: set[int]) -> Iterator[int]:
    """Those whose first byte is in `alphabet`, without surrogates, which UTF-8 does not write."""
    end = _LARGEST_SYMBOL if any(0xE0 <= byte < 0xF0 for byte in alphabet) else 0x7FF
    return (symbol for symbol in range(end + 1) if not 0xD800 <= symbol < 0xE000)


def _count(text: bytes) -> int:
    """Symbols: all bytes but those that continue one."""
    return len(text) - len(text.translate(None, _STARTS))


_STARTS = bytes([*range(0x80), *range(0xC0, 0x100)])
