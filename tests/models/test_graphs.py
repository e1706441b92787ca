"""What a CPU can show: the function is called as it is. The capture itself needs a GPU (`-m gpu`)."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from vla_tune.data.collate import Batch
from vla_tune.models.graphs import Graphed, eager


def test_on_a_cpu_the_function_is_called_as_it_is(tiny_model, tiny_head, tiny_batch: Batch):
    with torch.no_grad():
        expected = tiny_head.raw(tiny_model, tiny_batch)
        for launch in (eager, Graphed):
            assert torch.equal(launch(partial(tiny_head.raw, tiny_model))(tiny_batch), expected)


def test_a_batch_knows_its_shape_before_it_moves(tiny_batch: Batch):
    assert tiny_batch.parallel
    assert tiny_batch.padded
    emptied = {name: torch.zeros_like(tensor) for name, tensor in tiny_batch.tensors().items()}
    moved = tiny_batch.with_tensors(emptied)
    assert moved.parallel, "asked once, not read from the device"
    assert moved.padded
    assert not replace(tiny_batch, placeholders=emptied["placeholders"]).parallel
    assert tiny_batch.to("cpu").tensors().keys() == tiny_batch.tensors().keys()


@pytest.mark.gpu
@torch.inference_mode()
def test_a_replay_gives_what_the_function_gives(tiny_model, tiny_head, tiny_batch: Batch):
    model, batch = tiny_model.cuda().eval(), tiny_batch.to("cuda")
    function = partial(tiny_head.raw, model)
    graphed = Graphed(function)
    for seed in range(3):
        torch.manual_seed(seed)
        other = batch.with_tensors(batch.tensors() | {"pixel_values": torch.randn_like(batch.pixel_values)})
        assert torch.equal(graphed(other), function(other))
    assert len(graphed._captured) == 1
