"""Keys and values of what was read, in memory that stays where it is."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64
"""Positions beyond those given that memory is taken for at once: a chunk of 8 actions of 7 values fits."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer. A new position is written behind the others; nothing is copied while there is room.

    Attention gets a view of the positions written so far, so what is computed is what a growing cache gives, bit for bit;
    transformers' `StaticLayer` gives attention all of its room, which sums otherwise. Where the number of steps is known, every
    address and every shape is, which is what a CUDA graph needs.
    """

    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Float[Tensor, "B H N W"], value_states: Float[Tensor, "B H N W"], *_: Any, **__: Any
    ) -> tuple[Float[Tensor, "B H L W"], Float[Tensor, "B H L W"]]:
        """Add N positions; returns those of all positions so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2]:
            self._room = (_larger(key_states, self.keys, end), _larger(value_states, self.values, end))
        keys, values = self._room
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values


def roomy_cache(num_layers: int) -> Cache:
    """An empty cache for a language model of `num_layers` layers."""
    return Cache(layers=[RoomyLayer() for _ in range(num_layers)])


def _larger(new: Tensor, old: Tensor, end: int) -> Tensor:
    """Memory for `end` positions and some more, the old ones copied into it."""
    place = new.new_empty((*new.shape[:-2], end + _ROOM, new.shape[-1]))
    if old.numel():
        place[..., : old.shape[-2], :] = old
    return place
