"""A merged policy: written only when it acts as the trained one did."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from vla_tune.adapters import Adapter
from vla_tune.adapters.merging import merged
from vla_tune.adapters.spectrum import truncated
from vla_tune.models.base import Checkpoint
from vla_tune.models.files import new_folder
from vla_tune.schema import Contract


@runtime_checkable
class Report(Protocol):
    """What a check found, with its numbers as text."""

    @property
    def passed(self) -> bool:
        """Whether the policy may be written."""
        ...


class ParityError(Exception):
    """A merged policy that does not act as the live one; nothing was written."""


def merge[R: Report](
    destination: Path,
    *,
    base: Checkpoint,
    adapter: Adapter,
    adapter_folder: Path,
    contract: Contract,
    check: Callable[[Path], R],
    dtype: torch.dtype = torch.bfloat16,
    rank: int | None = None,
    beside: Sequence[Path] = (),
) -> R:
    """Merge a trained adapter into a new checkpoint folder, if the result passes `check`.

    Weights pass from the base's files through the change into the new files, one at a time. `check` reads the written folder back,
    so it measures what the robot gets.

    Args:
        destination: Appears whole or not at all.
        base: Whose `weights` are changed: in the format of training, or another one if that is wanted.
        adapter: The method.
        adapter_folder: What it learned.
        contract: Goes with the weights.
        check: Compares the written folder with the trained policy.
        dtype: Of the written weights, bfloat16 or float32.
        rank: Low-rank changes are cut to this one, which keeps most of what was learned or fails the check; None keeps all.
        beside: Files that go along as they are.

    Raises:
        ParityError: the check failed; nothing is written.
        ValueError: the destination exists, adapter and base do not belong together, or the adapter cannot be merged.
    """
    with new_folder(destination) as temporary:
        changes = adapter.changes(adapter_folder, base_hash=base.content_hash())
        if rank is not None:
            changes = truncated(changes, rank)
        base.write(temporary, merged(base.weights(), changes, dtype=dtype), contract)
        for path in beside:
            shutil.copy(path, temporary)
        report = check(temporary)
        if not report.passed:
            raise ParityError(f"{report}\nNothing was written to {destination}.")
    return report
