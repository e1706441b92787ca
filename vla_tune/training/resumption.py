"""How a run that was begun goes on."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from vla_tune.training.threads import set_threads


@runtime_checkable
class Resumption(Protocol):
    """Decides about what differs between a checkpoint and the configuration of now."""

    def settle(self, differences: Sequence[str], *, source: Path, threads: int) -> None:
        """Raise or accept; `source` is the checkpoint, which was made with so many `threads`."""
        ...


@dataclass(frozen=True)
class Exact:
    """As if the run had never stopped, bit for bit: whatever differs is refused."""

    def settle(self, differences: Sequence[str], *, source: Path, threads: int) -> None:
        """Refuse differences, and compute with as many threads as before: another number sums in another order.

        Raises:
            ValueError: something differs.
        """
        if differences:
            raise ValueError(
                f"{source} belongs to another run: {', '.join(differences)}. Put them back, go on with them (resume=changed), or "
                "choose another run folder."
            )
        if (now := set_threads(threads)) != threads:
            print(f"{source} was made with {threads} threads, OMP_NUM_THREADS says {now}: not the same bits.", file=sys.stderr)


@dataclass(frozen=True)
class Changed:
    """With what is configured now, from where the run stopped; what differs is said."""

    def settle(self, differences: Sequence[str], *, source: Path, threads: int) -> None:
        """Say what differs."""
        if differences:
            print(f"Going on from {source}, changed: {', '.join(differences)}.", file=sys.stderr)
