"""Action chunks <-> codes by their frequencies: FAST."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from vla_tune.tokens.pieces import Pieces
from vla_tune.tokens.records import FastTokens

_MOST_CODES = 4096
"""Twice the largest that is published; a soft target for each of them takes memory with the square."""
_LARGEST_TOKEN = 2**20
"""Beyond it there is no sign for a coefficient."""


def quantised(chunks: Float[np.ndarray, "*N T A"], scale: float) -> Int[np.ndarray, "*N T A"]:
    """`round(scale * DCT-II(chunks))`, orthonormal, along time.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    from scipy.fft import dct  # a plan and a benchmark of the model need no scipy

    if not np.isfinite(chunks).all():
        raise ValueError(
            f"actions hold NaN or infinity: {chunks[~np.isfinite(chunks)][:3].tolist()}. Repair the episode, or leave it out "
            "(data.sources.0.exclude=[...])."
        )
    coefficients = np.asarray(dct(chunks.astype(np.float64), axis=-2, norm="ortho"))
    return np.rint(coefficients * scale).astype(np.int64)


@dataclass(frozen=True, eq=False)
class FastTokenizer:
    """Frequencies of a chunk, rounded and byte-pair encoded (FAST, arXiv 2501.09747, §IV; golden README 4.11).

    encode: q = round(scale * DCT-II(actions)), orthonormal, along time; the text of the symbols chr(q - min_token), time-major;
    byte-level BPE; token i is the id V - 1 - i.
    decode: the way back. A coefficient is off by at most 1 / (2 scale), so the T values of a dimension are off by at most
    sqrt(T) / (2 scale) in the 2-norm.

    The original clips coefficients below `min_token`, drops symbols that its BPE has never seen, and decodes a sequence of another
    length as zeros; here all three are errors.

    Raises:
        ValueError: the scale is not positive, the vocabulary has no room, there are more codes than a model learns, or the BPE is
            of another kind.
    """

    record: FastTokens

    def __post_init__(self) -> None:
        if not self.record.scale > 0:
            raise ValueError(f"scale={self.record.scale}: coefficients are multiplied by it, so it is positive (10 in the paper).")
        codes = len(self._pieces.texts)
        if codes > _MOST_CODES or abs(self.record.min_token) > _LARGEST_TOKEN:
            raise ValueError(
                f"{codes} action codes from the coefficient {self.record.min_token:.3g}: at most {_MOST_CODES} from "
                f"{-_LARGEST_TOKEN}; fit a smaller FAST tokenizer (scripts/tokenizer.py)."
            )
        if self.record.vocabulary_size <= codes:
            raise ValueError(
                f"a vocabulary of {self.record.vocabulary_size} ids has no room for {codes} action codes beside its text: choose a "
                "smaller FAST tokenizer (tokens=fast_256) or a model with a larger vocabulary."
            )

    @classmethod
    def from_record(cls, record: FastTokens) -> "FastTokenizer":
        """The tokenizer written in a contract."""
        return cls(record)

    def to_record(self) -> FastTokens:
        """What a contract keeps of it."""
        return self.record

    @property
    def allowed_ids(self) -> Int[np.ndarray, " N"]:
        """V-1 downwards: position i is token i."""
        return self._ids

    @cached_property
    def _ids(self) -> Int[np.ndarray, " N"]:
        return self.record.vocabulary_size - 1 - np.arange(len(self._pieces.texts))

    @property
    def resolution(self) -> float:
        """What one frequency more changes at most."""
        return 1 / self.record.scale

    @property
    def free(self) -> bool:
        """No: a chunk has as many codes as its text needs."""
        return False

    def check(self, horizon: int, action_dimension: int) -> None:
        """Refuse chunks of another shape than the tokenizer was fitted to.

        Raises:
            ValueError: both are named.
        """
        shape = (self.record.horizon, self.record.action_dimension)
        if (horizon, action_dimension) != shape:
            raise ValueError(
                f"a chunk of shape {(horizon, action_dimension)}, the tokenizer is for {shape}: fit one for this horizon and robot."
            )

    def num_codes(self, horizon: int, action_dimension: int) -> int:
        """At most one code per byte of the text."""
        return horizon * action_dimension * self._pieces.bytes_per_symbol

    def encode(self, actions: Float[np.ndarray, "T A"]) -> Int[np.ndarray, " K"]:
        """Ids of the chunk's tokens.

        Raises:
            ValueError: the chunk has another shape, holds NaN, or a coefficient that the alphabet has no symbol for.
        """
        self.check(*actions.shape)
        text = "".join(map(chr, self.symbols_of(actions).ravel().tolist()))
        return self.record.vocabulary_size - 1 - np.array(self._bpe.encode(text).ids, dtype=np.int64)

    def symbols_of(self, chunks: Float[np.ndarray, "*N T A"]) -> Int[np.ndarray, "*N T A"]:
        """The symbols of chunks.

        Raises:
            ValueError: there is none for a coefficient; the original would clip or drop it.
        """
        coefficients = quantised(chunks, self.record.scale)
        symbols = coefficients - self.record.min_token
        known = np.isin(symbols, self._symbols)
        if not known.all():
            values = sorted(set(coefficients[~known].tolist()))
            low, high = (int(end) + self.record.min_token for end in (self._symbols.min(), self._symbols.max()))
            raise ValueError(
                f"the chunk has DCT coefficients {values[:5]}, which this FAST tokenizer has no symbol for (it knows "
                f"{len(self._symbols)} between {low} and {high}): fit it on data that hold such chunks "
                "(scripts/tokenizer.py), with the run's own statistics; tokens=fast_1024 covers every chunk in [-1, 1]."
            )
        return symbols

    def decode(self, codes: Int[np.ndarray, " K"], *, action_dimension: int) -> Float[np.ndarray, "T A"]:
        """The chunk, [T A] float64.

        Rounding may lead a little out of [-1, 1], and a model that has learned nothing much further: nothing is clipped here.

        Raises:
            ValueError: an id is no action code, or the codes are not the text of T * A symbols.
        """
        from scipy.fft import idct

        horizon, dimension = self.record.horizon, self.record.action_dimension
        if action_dimension != dimension:
            raise ValueError(f"the tokenizer is for actions of {dimension} dimensions, these have {action_dimension}.")
        outside = ~np.isin(codes, self.allowed_ids)
        if outside.any():
            raise ValueError(f"ids {codes[outside].tolist()} are not action codes ({self._ids[-1]}..{self._ids[0]}).")
        symbols = self._symbols_in(self._pieces.join((self.record.vocabulary_size - 1 - codes).tolist()))
        if len(symbols) != horizon * dimension:
            raise ValueError(
                f"{len(codes)} codes stand for {len(symbols)} coefficients, a chunk of {horizon} actions of {dimension} "
                f"dimensions has {horizon * dimension}: the sequence is malformed; decoding=constrained forbids it."
            )
        coefficients = np.array(symbols).reshape(horizon, dimension) + self.record.min_token
        return np.asarray(idct(coefficients / self.record.scale, axis=0, norm="ortho"))

    def allowed_next(self, codes: Sequence[int], *, horizon: int, action_dimension: int) -> Int[np.ndarray, " n"]:
        """Codes after which the chunk can still be completed to exactly T * A coefficients; none after what is no action code."""
        last = self.record.vocabulary_size - 1
        tokens = [last - code for code in codes]
        if tokens and not (min(tokens) >= 0 and max(tokens) < len(self._pieces.texts)):
            return self.allowed_ids[:0]
        return last - self._pieces.next_tokens(tokens, length=horizon * action_dimension)

    def target_distributions(self, deviation: float) -> Float[np.ndarray, "N N"]:
        """One-hot.

        Raises:
            ValueError: soft targets are asked for; neighbouring tokens have nothing in common.
        """
        if deviation:
            raise ValueError(
                f"deviation={deviation}: soft targets need codes with neighbours, which FAST's have not: set head.deviation=0."
            )
        return np.eye(len(self._pieces.texts))

    def _symbols_in(self, text: bytes) -> list[int]:
        try:
            return [ord(symbol) for symbol in text.decode()]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"the codes are malformed: their bytes are no text ({error}); decoding=constrained forbids it."
            ) from None

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces.read(self.record.bpe)

    @cached_property
    def _symbols(self) -> Int[np.ndarray, " n"]:
        return np.array(sorted(self._pieces.symbols))

    @cached_property
    def _bpe(self) -> Tokenizer:
        return Tokenizer.from_str(self.record.bpe)
