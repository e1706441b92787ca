"""How long an action takes on a GPU, beside the least that it can take."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median

import torch

from vla_tune.adapters import Lora
from vla_tune.bench.budget import Cell, Cells
from vla_tune.bench.gpu_training import CODES, Timing
from vla_tune.bench.inputs import action_space, causal_batch, parallel_batch, random_base
from vla_tune.bench.kept import Kept
from vla_tune.bench.measure import Row
from vla_tune.bench.peaks import wait_for
from vla_tune.data.collate import Batch
from vla_tune.models.graphs import Pass, compiled_graphs, eager, graphed
from vla_tune.models.heads import AutoregressiveTokenHead, ParallelTokenHead
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.outline import outline
from vla_tune.plan import Architecture, Device, Load, architecture
from vla_tune.plan.speed import action_floor_seconds

COMPILED_GRAPHS = "compiled_graphs"
LAUNCHES: dict[str, Callable[[Pass, OpenVLA], Pass]] = {"eager": eager, "graphs": graphed, COMPILED_GRAPHS: compiled_graphs}
_WARM_UPS = 3
_LEAST = 3
_MOST = 200


@dataclass(frozen=True, kw_only=True)
class Act:
    """Acting on one observation as a policy does, in an autocast: seven codes one after the other, or a chunk in one pass."""

    config: OpenVLAConfig
    base: str
    device: str
    prompt_length: int
    horizon: int
    """Actions of the chunk."""
    seed: int

    def model(self) -> OpenVLA:
        """Random weights on the device: a merged model, in the format `base`."""
        return random_base(self.config, base=self.base, device=self.device, seed=self.seed)

    def head(self, decoding: str) -> AutoregressiveTokenHead | ParallelTokenHead:
        """With the action space that is measured: one action where codes are decoded one after the other."""
        horizon = 1 if decoding == AutoregressiveTokenHead.decoding else self.horizon
        space = action_space(self.config, horizon=horizon, action_dimension=CODES)
        return {kind.decoding: kind for kind in (AutoregressiveTokenHead, ParallelTokenHead)}[decoding](space)

    def batch(self, decoding: str) -> Batch:
        """One observation."""
        space = self.head(decoding).space
        shape = {"rows": 1, "prompt_length": self.prompt_length, "seed": self.seed}
        if decoding == AutoregressiveTokenHead.decoding:
            return causal_batch(self.config, space, labelled=False, **shape).to(self.device)
        return parallel_batch(self.config, space, **shape).to(self.device)

    def floor_seconds(self, decoding: str, device: Device) -> float:
        """Operations at the measured rate or all weights read once, and the language model's read again for each further code."""
        context = self._described.outline.image_tokens + self._described.outline.state_tokens
        length, passes = context + self.batch(decoding).input_ids.shape[1], CODES
        if decoding == ParallelTokenHead.decoding:
            passes = 1
        load = Load(batch_size=1, length=length, labels=0, cameras=1)
        floor = action_floor_seconds(self._described, load, device, passes=passes)
        assert floor is not None
        return floor

    @cached_property
    def _described(self) -> Architecture:
        return architecture(outline(self.config), Lora(rank=1, alpha=1, targets=("q_proj",), base=self.base))  # none is counted


def acting_cells(act: Act, *, launches: Sequence[str], device: Device, timing: Timing) -> Cells:
    """A row for each way to launch each way to decode."""
    models = Kept(act.model)
    for launch in launches:
        for decoding in (AutoregressiveTokenHead.decoding, ParallelTokenHead.decoding):
            yield _cell(act, models, decoding=decoding, launch=launch, device=device, timing=timing)
    torch._dynamo.reset()  # what was compiled may keep the model
    models.forget()


def _cell(act: Act, models: Kept, *, decoding: str, launch: str, device: Device, timing: Timing) -> Cell:
    floor = act.floor_seconds(decoding, device)
    names = {
        "part": "acting",
        "work": f"{act.base}, {decoding}, {launch}",
        "base": act.base,
        "decoding": decoding,
        "launch": launch,
        "actions": 1 if decoding == AutoregressiveTokenHead.decoding else act.horizon,
        "floor_milliseconds": 1000 * floor,
    }
    seconds = 2 * timing.seconds + (0 if models.made else timing.preparing) + timing.compiling / 2 * (launch == COMPILED_GRAPHS)
    return Cell(names, seconds, partial(_measured, act, models, names, seconds=timing.seconds))


def _measured(act: Act, models: Kept, names: Row, *, seconds: float) -> Row:
    network = models.get()
    model = act.head(names["decoding"]).over(network)
    batch, launched = act.batch(names["decoding"]), LAUNCHES[names["launch"]](model.raw, network)
    with torch.inference_mode(), torch.autocast(torch.device(act.device).type, torch.bfloat16):

        def predict() -> None:
            model.actions(launched(batch))

        for _ in range(_WARM_UPS):
            predict()
        times = list(_times(predict, seconds, act.device))
    milliseconds = [1000 * each for each in times]
    return {
        "milliseconds": median(milliseconds),
        "milliseconds_low": min(milliseconds),
        "milliseconds_high": max(milliseconds),
        "repetitions": len(milliseconds),
        "times_floor": median(milliseconds) / names["floor_milliseconds"],
    }


def _times(do: Callable[[], None], seconds: float, device: str) -> Iterator[float]:
    begin = time.perf_counter()
    for number in range(_MOST):
        if number >= _LEAST and time.perf_counter() - begin > seconds:
            return
        wait_for(device)
        start = time.perf_counter()
        do()
        wait_for(device)
        yield time.perf_counter() - start
