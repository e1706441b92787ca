"""CUDA graphs: a pass over a batch of fixed shape is launched at once, where launching its kernels costs more than running them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vla_tune.data.collate import Batch

type Pass = Callable[[Batch], Tensor]
"""All that is computed on the device for a batch."""

_WARM_UPS = 3
"""Passes before the capture: libraries choose their kernels and reserve memory in the first ones."""


def eager(function: Pass, model: object) -> Pass:
    """Kernel by kernel, as torch does."""
    del model
    return function


def graphed(function: Pass, model: object) -> Pass:
    """As a CUDA graph (`Graphed`).

    Raises:
        ValueError: `model`, which the function runs, reads values back from the device on its way.
    """
    reason = getattr(model, "reads_back", None)
    if reason is not None:
        raise ValueError(f"launch=graphs: {type(model).__name__} cannot be a CUDA graph: {reason}. Use launch=eager.")
    return Graphed(function)


def compiled_graphs(function: Pass, model: Any) -> Pass:
    """As a CUDA graph, in which norms and MLPs are one kernel each where they were many: `model` is changed, and rounds otherwise.

    Raises:
        ValueError: `model` cannot be a CUDA graph, or has no parts to compile.
    """
    replayed = graphed(function, model)
    if not hasattr(model, "pointwise"):
        raise ValueError(f"launch=compiled_graphs: {type(model).__name__} names no parts to compile. Use launch=graphs.")
    for part in model.pointwise:
        part.compile(dynamic=False)  # one compilation serves all parts of a kind
    return replayed


@dataclass(frozen=True, eq=False)
class Graphed:
    """A function of a batch, captured as a CUDA graph at the first batch of each shape and replayed from then on.

    The function may read nothing back from the device and may depend on nothing but the batch's tensors and weights that stay
    where they are. On a CPU it is called as it is. At 7B on an H100 or H200 a decoding step is a few hundred small kernels, and
    launching them takes several times as long as reading the weights; a graph launches them all at once.
    """

    function: Pass
    _captured: dict[tuple[object, ...], "_Capture"] = field(default_factory=dict, init=False)

    def __call__(self, batch: Batch) -> Tensor:
        """What the function gives for `batch`; the result is the caller's."""
        if not batch.input_ids.is_cuda:
            return self.function(batch)
        key = kind(batch)
        if key not in self._captured:
            self._captured[key] = _captured(self.function, batch)
        return self._captured[key].replay(batch.tensors())


def kind(batch: Batch) -> tuple[object, ...]:
    """Batches of one kind share a graph: a pass over them launches the same kernels."""
    return (batch.parallel, batch.padded, *((name, tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items()))


@dataclass(frozen=True, eq=False)
class _Capture:
    graph: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    output: Tensor

    def replay(self, tensors: Mapping[str, Tensor]) -> Tensor:
        for name, place in self.inputs.items():
            place.copy_(tensors[name])
        self.graph.replay()
        return self.output.clone()


def _captured(function: Pass, batch: Batch) -> _Capture:
    places = {name: tensor.clone() for name, tensor in batch.tensors().items()}
    fixed = batch.with_tensors(places)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    cached = torch.is_autocast_cache_enabled()
    # A weight cast outside the graph would be gone at the replay. Off in the passes before, too: what is compiled asks for it.
    torch.set_autocast_cache_enabled(False)
    try:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                function(fixed)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            output = function(fixed)
    finally:
        torch.set_autocast_cache_enabled(cached)
    return _Capture(graph, places, output)
