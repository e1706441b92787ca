"""A cache with room gives what a growing one gives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from vla_tune.models.cache import RoomyLayer, roomy_cache


@given(steps=st.lists(st.integers(1, 50), min_size=1, max_size=8), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_it_holds_what_a_growing_cache_holds(steps: list[int], seed: int):
    generator = torch.Generator().manual_seed(seed)
    roomy, growing = roomy_cache(2), DynamicCache()
    for count in steps:
        for layer in range(2):
            new = [torch.randn(2, 3, count, 4, generator=generator) for _ in range(2)]
            for found, expected in zip(roomy.update(*new, layer), growing.update(*new, layer), strict=True):
                assert torch.equal(found, expected)
        assert roomy.get_seq_length() == growing.get_seq_length()
        assert roomy.get_mask_sizes(1, 0) == growing.get_mask_sizes(1, 0)


def test_one_more_position_is_written_where_there_is_room():
    layer = RoomyLayer()
    layer.update(torch.zeros(1, 2, 10, 4), torch.zeros(1, 2, 10, 4))
    addresses = set()
    for _ in range(56):
        keys, values = layer.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
        addresses.add((keys.data_ptr(), values.data_ptr()))
    assert len(addresses) == 1
    assert keys.shape[-2] == 66
    assert (keys[..., 10:, :] == 1).all()


def test_the_old_positions_move_along_when_there_is_none():
    layer = RoomyLayer()
    layer.update(torch.full((1, 1, 3, 2), 7.0), torch.full((1, 1, 3, 2), 8.0))
    keys, values = layer.update(torch.zeros(1, 1, 200, 2), torch.zeros(1, 1, 200, 2))
    assert keys.shape[-2] == 203
    assert (keys[..., :3, :] == 7).all()
    assert (values[..., :3, :] == 8).all()
