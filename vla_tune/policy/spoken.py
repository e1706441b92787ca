"""Codes that a policy says one after the other: its own, and those it would say where another has spoken."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int

from vla_tune.data.collate import Batch
from vla_tune.heads import AutoregressiveTokenHead
from vla_tune.policy.local import LocalPolicy, filled
from vla_tune.schema import Observation

Codes = Int[np.ndarray, " K"]


def spoken_codes(policy: LocalPolicy, observations: Sequence[Observation]) -> list[Codes]:
    """The ids that `policy` decodes; a chunk that is shorter than its neighbours' ends in stop ids."""
    head = _head(policy)

    def read(batch: Batch, _: Sequence[int]) -> Int[np.ndarray, "B K"]:
        return head.raw(policy.model, batch).cpu().numpy()

    return policy.in_passes(read, observations)


def codes_after(policy: LocalPolicy, observations: Sequence[Observation], codes: Sequence[Codes]) -> list[Codes]:
    """The ids that `policy` would choose, each as if those before it had been `codes`."""
    head = _head(policy)

    def read(batch: Batch, members: Sequence[int]) -> Int[np.ndarray, "B K"]:
        said = torch.from_numpy(np.stack(filled([codes[index] for index in members], policy.rows)))
        return head.after(policy.model, batch, said.to(batch.input_ids.device)).cpu().numpy()

    return policy.in_passes(read, observations)


def _head(policy: LocalPolicy) -> AutoregressiveTokenHead:
    assert isinstance(policy.head, AutoregressiveTokenHead)
    return policy.head
