"""What a merged folder must pass before it gets its name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vla_tune.check.layer_parity import LayerReport, layer_parity
from vla_tune.check.parity import Losses, ParityReport, Tolerance, Witness, compared, held_out_losses, witness
from vla_tune.data.recorded import observation_in
from vla_tune.run.folder import ADAPTER_FOLDER
from vla_tune.run.objects import load_base, load_policy, unprobed_policy
from vla_tune.run.recorded import recorded_frames, recorded_observations
from vla_tune.run.stored import adapter_of, checkpoint_in, checkpoint_of, data_of
from vla_tune.schema import Contract

_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class PolicyGate:
    """The merged policy against the live one, on held-out frames; one model at a time is in memory."""

    observations: int
    """How many frames."""
    tolerance: Tolerance

    def prepare(self, run: Path) -> Callable[[Path], ParityReport]:
        """What checks a folder that was merged from `run`."""
        frames = recorded_frames(data_of(run), count=self.observations)
        body = Contract.load(run).embodiment
        base = held_out_losses(load_base(run, rows=_ROWS, device="cpu"), frames)
        live = load_policy(run, rows=_ROWS, device="cpu").policy
        said = witness(live, [observation_in(frame, body) for frame in frames])
        return partial(self._check, said, frames, base, held_out_losses(live, frames))

    def _check(self, said: Witness, frames: list[dict], base: np.ndarray, live: np.ndarray, folder: Path) -> ParityReport:
        merged = load_policy(folder, rows=_ROWS, device="cpu").policy
        losses = Losses.of(base, live, held_out_losses(merged, frames))
        return compared(said, merged, contract=merged.contract, tolerance=self.tolerance, losses=losses)


@dataclass(frozen=True, kw_only=True)
class LayerGate:
    """The first merged layers against base and adapter, on what reaches them: no whole model is in memory."""

    observations: int
    """How many frames."""
    layers: int
    """How many of those that the adapter changes."""
    allowed_error: float
    allowed_share: float

    def prepare(self, run: Path) -> Callable[[Path], LayerReport]:
        """What checks a folder that was merged from `run`."""
        return partial(self._check, run)

    def _check(self, run: Path, folder: Path) -> LayerReport:
        contract, checkpoint, merged = Contract.load(run), checkpoint_of(run), checkpoint_in(folder)
        return layer_parity(
            unprobed_policy(merged.load(device="cpu"), contract, merged.interface(contract), rows=1, device="cpu"),
            adapter_of(run).changes(run / ADAPTER_FOLDER, base_hash=checkpoint.content_hash()),
            checkpoint.weights(),
            recorded_observations(data_of(run), count=self.observations),
            count=self.layers,
            allowed_error=self.allowed_error,
            allowed_share=self.allowed_share,
        )
