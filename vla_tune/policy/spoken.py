"""Codes that a policy says one after the other: its own, and those it would say where another has spoken."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int

from vla_tune.data.collate import Batch
from vla_tune.models.capabilities import SpeaksInOrder
from vla_tune.models.forward import filled
from vla_tune.policy.local import LocalPolicy
from vla_tune.schema import Observation

Codes = Int[np.ndarray, " K"]


def spoken_codes(policy: LocalPolicy, observations: Sequence[Observation]) -> list[Codes]:
    """The ids that `policy` decodes; a chunk that is shorter than its neighbours' ends in stop ids."""
    model = _model(policy)

    def read(batch: Batch, members: Sequence[int]) -> Int[np.ndarray, "B K"]:
        del members
        return model.raw(batch).cpu().numpy()

    return policy.in_passes(read, observations)


def codes_after(policy: LocalPolicy, observations: Sequence[Observation], codes: Sequence[Codes]) -> list[Codes]:
    """The ids that `policy` would choose, each as if those before it had been `codes`."""
    model = _model(policy)

    def read(batch: Batch, members: Sequence[int]) -> Int[np.ndarray, "B K"]:
        said = torch.from_numpy(np.stack(filled([codes[index] for index in members], policy.rows)))
        return model.after(batch, said.to(batch.input_ids.device)).cpu().numpy()

    return policy.in_passes(read, observations)


def _model(policy: LocalPolicy) -> SpeaksInOrder:
    assert isinstance(policy.model, SpeaksInOrder)
    return policy.model
