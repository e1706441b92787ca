"""Greedy decoding of codes, one after the other, with every row of the batch at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA
from vla_tune.models.heads.codes import ActionSpace
from vla_tune.tokens import ActionTokenizer


@dataclass(frozen=True)
class Decoded:
    """What was decoded."""

    ids: Int[Tensor, "B K"]
    """Of each row; a row that is complete goes on with the stop id."""
    outside: Float[Tensor, "B K"] | None
    """Probability of all ids that are no action code, at each step; None where the whole vocabulary was not computed."""


@runtime_checkable
class Decoder(Protocol):
    """Chooses the codes that follow a prompt."""

    def __call__(self, model: VLA, prompt: Batch, space: ActionSpace) -> Decoded:
        """The codes of each row of `prompt`."""
        ...


@dataclass(frozen=True)
class Constrained:
    """The most likely among the codes that the tokenizer allows next; only their rows of `lm_head` are computed."""

    def __call__(self, model: VLA, prompt: Batch, space: ActionSpace) -> Decoded:
        """Complete chunks, always."""
        rows = space.rows(prompt.input_ids.device)

        def choose(hidden: Float[Tensor, "B D"], allowed: Bool[Tensor, "B N"] | None) -> tuple[Int[Tensor, " B"], None]:
            return _best(model.vocabulary_logits(hidden, rows), rows, allowed), None

        return _decode(model, prompt, space, choose)


@dataclass(frozen=True)
class Watched:
    """As `Constrained`, with the whole vocabulary computed to see how much probability the codes do not get."""

    def __call__(self, model: VLA, prompt: Batch, space: ActionSpace) -> Decoded:
        """Complete chunks, and `outside`."""
        rows = space.rows(prompt.input_ids.device)

        def choose(
            hidden: Float[Tensor, "B D"], allowed: Bool[Tensor, "B N"] | None
        ) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
            logits = model.vocabulary_logits(hidden)
            return _best(logits[:, rows], rows, allowed), outside_mass(logits, rows)

        return _decode(model, prompt, space, choose)


@dataclass(frozen=True, eq=False)
class After:
    """As `Constrained`, but each id is chosen as if those before it had been `codes`: one policy where another has spoken."""

    codes: Int[Tensor, "B K"]

    def __call__(self, model: VLA, prompt: Batch, space: ActionSpace) -> Decoded:
        """As many ids as there are codes."""
        rows, state = space.rows(prompt.input_ids.device), model.prefill(prompt)
        chosen: list[Int[Tensor, " B"]] = []
        for place, code in enumerate(self.codes.unbind(dim=1)):
            allowed = _allowed(list(self.codes[:, :place].unbind(dim=1)), space, prompt)
            ids = _best(model.vocabulary_logits(state.hidden, rows), rows, allowed)
            chosen.append(ids if allowed is None else ids.where(allowed.any(dim=1), space.stop_id))
            if place + 1 < self.codes.shape[1]:
                state = model.advance(code, state)
        return Decoded(torch.stack(chosen, dim=1), None)


@dataclass(frozen=True)
class FullVocabulary:
    """The most likely id of all, as the original does; for comparisons.

    Raises:
        ValueError: on decoding, if the model ends the sequence before the chunk is complete. (The original then takes ids of the
            prompt for actions.)
    """

    def __call__(self, model: VLA, prompt: Batch, space: ActionSpace) -> Decoded:
        """Chunks of as many ids as the tokenizer asks for, and `outside`; an id may be no action code."""
        rows = space.rows(prompt.input_ids.device)

        def choose(hidden: Float[Tensor, "B D"], _: Bool[Tensor, "B N"] | None) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
            logits = model.vocabulary_logits(hidden)
            return logits.argmax(dim=-1), outside_mass(logits, rows)

        decoded = _decode(model, prompt, space, choose)
        for number, row in enumerate(decoded.ids.tolist()):
            codes = _before(space.stop_id, row)
            if len(codes) < len(row) and len(_following(codes, space)):
                raise ValueError(
                    f"row {number}: the model ended the sequence after {len(codes)} of {len(row)} codes. It was "
                    "not trained for so many actions, or has another prompt than in training; decoding=constrained forbids it."
                )
        return decoded


def outside_mass(logits: Float[Tensor, "B V"], rows: Int[Tensor, " R"]) -> Float[Tensor, " B"]:
    """The probability of all ids but `rows`."""
    return (1 - (logits[:, rows].logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp()).clamp(min=0)


type _Choose = Callable[[Float[Tensor, "B D"], Bool[Tensor, "B N"] | None], tuple[Int[Tensor, " B"], Float[Tensor, " B"] | None]]


def _decode(model: VLA, prompt: Batch, space: ActionSpace, choose: _Choose) -> Decoded:
    """Codes until every row is complete."""
    longest = space.tokenizer.num_codes(space.horizon, space.action_dimension)
    state = model.prefill(prompt)
    chosen: list[Int[Tensor, " B"]] = []
    outside: list[Float[Tensor, " B"]] = []
    while True:
        allowed = _allowed(chosen, space, prompt)
        if allowed is not None and not allowed.any():
            break
        ids, mass = choose(state.hidden, allowed)
        chosen.append(ids if allowed is None else ids.where(allowed.any(dim=1), space.stop_id))
        outside += [] if mass is None else [mass]
        if len(chosen) == longest:
            break
        state = model.advance(chosen[-1], state)
    return Decoded(torch.stack(chosen, dim=1), torch.stack(outside, dim=1) if outside else None)


def _allowed(chosen: list[Int[Tensor, " B"]], space: ActionSpace, prompt: Batch) -> Bool[Tensor, "B N"] | None:
    """Which codes may follow in each row; None where all may, so that nothing need be read back from the device."""
    if space.tokenizer.free:
        return None
    so_far = torch.stack(chosen, dim=1).tolist() if chosen else [[] for _ in range(len(prompt))]
    allowed, place = np.zeros((len(so_far), len(space.tokenizer.allowed_ids)), dtype=bool), _places(space.tokenizer)
    for row, codes in enumerate(so_far):
        if space.stop_id not in codes:
            allowed[row, place[_following(codes, space)]] = True
    return torch.from_numpy(allowed).to(prompt.input_ids.device)


def _following(codes: list[int], space: ActionSpace) -> Int[np.ndarray, " n"]:
    return space.tokenizer.allowed_next(codes, horizon=space.horizon, action_dimension=space.action_dimension)


def _before(stop_id: int, codes: list[int]) -> list[int]:
    return codes[: codes.index(stop_id)] if stop_id in codes else codes


@lru_cache(maxsize=16)
def _places(tokenizer: ActionTokenizer) -> Int[np.ndarray, " ids"]:
    """Id -> its position among the allowed ids."""
    ids = tokenizer.allowed_ids
    places = np.full(ids.max() + 1, -1)
    places[ids] = np.arange(len(ids))
    return places


def _best(logits: Float[Tensor, "B N"], rows: Int[Tensor, " N"], allowed: Bool[Tensor, "B N"] | None) -> Int[Tensor, " B"]:
    masked = logits if allowed is None else logits.masked_fill(~allowed, float("-inf"))
    return rows[masked.argmax(dim=-1)]
