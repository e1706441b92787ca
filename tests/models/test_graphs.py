"""What a CPU can show: the function is called as it is. The capture itself needs a GPU (`-m gpu`)."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from vla_tune.data.collate import Batch
from vla_tune.models.graphs import Graphed, compiled_graphs, eager, graphed, kind
from vla_tune.models.heads import AutoregressiveTokenHead
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.nf4 import quantize
from vla_tune.models.openvla.load import OPENVLA_NF4
from vla_tune.models.precision import set_attention


def test_on_a_cpu_the_function_is_called_as_it_is(tiny_model, tiny_head, tiny_batch: Batch):
    with torch.no_grad():
        expected = tiny_head.over(tiny_model).raw(tiny_batch)
        for launch in (eager, graphed):
            assert torch.equal(launch(tiny_head.over(tiny_model).raw, tiny_model)(tiny_batch), expected)


class ReadsBack:
    """A model that asks the device on its way."""

    reads_back = "it counts its images"


@pytest.mark.parametrize("launch", [graphed, compiled_graphs])
def test_a_model_that_reads_back_is_no_graph(launch):
    with pytest.raises(ValueError, match="ReadsBack cannot be a CUDA graph: it counts its images"):
        launch(lambda batch: batch.input_ids, ReadsBack())


def test_a_model_without_parts_is_not_compiled():
    with pytest.raises(ValueError, match="launch=compiled_graphs: object names no parts"):
        compiled_graphs(lambda batch: batch.input_ids, object())


@pytest.mark.filterwarnings("ignore")  # of torch._dynamo, about itself
def test_pointwise_parts_are_compiled_in_place(tiny_model, tiny_head, monkeypatch: pytest.MonkeyPatch):
    names = list(tiny_model.state_dict())
    compiled_graphs(tiny_head.over(tiny_model).raw, tiny_model)
    layers = tiny_model.language_model.model.layers
    assert len(tiny_model.pointwise) == 3 * len(layers)
    assert all(part._compiled_call_impl is not None for part in tiny_model.pointwise)
    assert list(tiny_model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch._dynamo, about itself
def test_one_compilation_serves_all_blocks(tiny_model, tiny_head, tiny_batch: Batch):
    expected = [parameter.grad for parameter in learned(tiny_model, tiny_head, tiny_batch)]
    counter = CompileCounterWithBackend("aot_eager")
    for block in tiny_model.blocks:
        block.compile(dynamic=False, backend=counter)
    tiny_model.zero_grad(set_to_none=True)
    found = [parameter.grad for parameter in learned(tiny_model, tiny_head, tiny_batch)]
    assert counter.frame_count == 2, "one for the vision tower, one for the language model"
    for before, after in zip(expected, found, strict=True):
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch._dynamo, about itself
def test_one_compilation_serves_all_layers_that_decode(tiny_model, single, tiny_batch: Batch):
    prompt, model = prompt_of(tiny_batch), tiny_model.eval()
    counter = CompileCounterWithBackend("aot_eager")
    with torch.no_grad():
        expected = single.over(model).raw(prompt)
        for part in model.pointwise:
            part.compile(dynamic=False, backend=counter)
        assert torch.equal(single.over(model).raw(prompt), expected)
    assert counter.frame_count == 4, "norms and MLPs, for the prompt and for one more id"


def learned(model, head, batch: Batch) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    head.over(model.train()).loss(batch).loss.backward()
    return [parameter for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def single(tiny_head) -> AutoregressiveTokenHead:
    return AutoregressiveTokenHead(tiny_head.space)


def test_a_batch_knows_its_shape_before_it_moves(tiny_batch: Batch):
    assert tiny_batch.parallel
    assert tiny_batch.padded
    emptied = {name: torch.zeros_like(tensor) for name, tensor in tiny_batch.tensors().items()}
    moved = tiny_batch.with_tensors(emptied)
    assert moved.parallel, "known beforehand, not read from the device"
    assert moved.padded
    assert tiny_batch.to("cpu").tensors().keys() == tiny_batch.tensors().keys()


def test_a_graph_is_of_one_kind_of_batch(tiny_batch: Batch):
    assert kind(other(tiny_batch, 0)) == kind(tiny_batch)
    assert kind(replace(tiny_batch, parallel=False)) != kind(tiny_batch)
    assert kind(replace(tiny_batch, padded=False)) != kind(tiny_batch), "rows without padding are read by another kernel"


@pytest.mark.gpu
@torch.inference_mode()
def test_a_replay_gives_what_the_function_gives(tiny_model, tiny_head, tiny_batch: Batch):
    model, batch = tiny_model.cuda().eval(), tiny_batch.to("cuda")
    function = tiny_head.over(model).raw
    graph = Graphed(function)
    for seed in range(3):
        assert torch.equal(graph(other(batch, seed)), function(other(batch, seed)))
    assert len(graph._captured) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.inference_mode()
def test_codes_one_after_the_other_are_replayed(tiny_model, single, tiny_batch: Batch, attention: str, padded: bool):
    model, batch = tiny_model.cuda().eval(), prompt_of(tiny_batch).to("cuda")
    set_attention(model, attention)
    if not padded:
        batch = replace(batch, attention_mask=torch.ones_like(batch.attention_mask), padded=False)
    assert batch.padded == padded
    function = partial(single.raw, model)
    graph = Graphed(function)
    with torch.autocast("cuda", torch.bfloat16):
        for seed in range(3):
            assert torch.equal(graph(other(batch, seed)), function(other(batch, seed)))
    assert len(graph._captured) == 1


@pytest.mark.gpu
@torch.inference_mode()
def test_four_bits_are_replayed(tiny_model, single, tiny_batch: Batch):
    model, batch = tiny_model.to(torch.bfloat16).cuda().eval(), prompt_of(tiny_batch).to("cuda")
    quantize(model, OPENVLA_NF4, device="cuda")
    function = partial(single.raw, model)
    graph = Graphed(function)
    with torch.autocast("cuda", torch.bfloat16):
        for seed in range(3):
            assert torch.equal(graph(other(batch, seed)), function(other(batch, seed)))


@pytest.mark.gpu
@torch.inference_mode()
def test_compiled_graphs_give_nearly_the_same(tiny_model, tiny_head, tiny_batch: Batch):
    model, batch = tiny_model.cuda().eval(), tiny_batch.to("cuda")
    expected = model(batch)
    graph = compiled_graphs(model, model)
    torch.testing.assert_close(graph(batch), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(graph(other(batch, 1)), model(other(batch, 1)), atol=1e-3, rtol=1e-3)


def other(batch: Batch, seed: int) -> Batch:
    """With other pixels."""
    torch.manual_seed(seed)
    assert batch.pixel_values is not None
    return batch.with_tensors(batch.tensors() | {"pixel_values": torch.randn_like(batch.pixel_values)})
