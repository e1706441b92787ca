"""Checkpoints of a run: folders that appear whole or not at all.

    <run>/checkpoints/step_000100/trained.safetensors      trainable parameters, by name
                                  optimizer.safetensors    state tensors, `parameter::key`
                                  optimizer.json           its groups and plain values
                                  state.json               step, best step, schedule, random generators, the caller's record

A save writes into a hidden sibling, flushes every file to the disk and renames: `kill -9` at any moment leaves the previous
checkpoint as it was. The last and the best are found by looking, so there is no pointer that could dangle.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from vla_tune.models.tensor_file import Place, write_tensor_file
from vla_tune.models.tensor_reader import copy_tensors, read_tensor_file

TRAINED, OPTIMIZER, OPTIMIZER_RECORD, STATE = "trained.safetensors", "optimizer.safetensors", "optimizer.json", "state.json"
_MOST_BYTES = 256 * 1024**2
"""Of a JSON file: random generators take some kB, an optimizer's groups name each of thousands of parameters."""
_PARTIAL, _DISCARDED = ".partial-", ".discarded-"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one checkpoint holds."""

    step: int
    trained: Mapping[str, Tensor]
    optimizer_tensors: Mapping[str, Tensor]
    optimizer_record: Mapping[str, Any]
    state: Mapping[str, Any]
    """JSON data of the caller; `state["best_step"]`, if given, is the checkpoint to keep."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run."""

    path: Path
    keep_last: int
    """How many of the newest are kept, besides the best."""

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last={self.keep_last} must be at least 1: without a last checkpoint a run cannot resume.")

    def steps(self) -> list[int]:
        """The steps that were saved, in order."""
        names = [folder.name.removeprefix("step_") for folder in self.path.glob("step_*")]
        return sorted(int(name) for name in names if name.isdecimal())

    def folder(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.path / f"step_{step:06d}"

    def last(self) -> Path | None:
        """The newest checkpoint."""
        steps = self.steps()
        return self.folder(steps[-1]) if steps else None

    def best(self) -> Path | None:
        """The checkpoint with the lowest validation loss so far, as the newest one tells."""
        last = self.last()
        best = None if last is None else _read_json(last / STATE, f"remove {last}, or copy the run again").get("best_step")
        if best is not None and type(best) is not int:
            raise ValueError(f"{last}/{STATE} has best_step={str(best)[:40]!r}, which is no step: copy the run again.")
        return None if best is None else self.folder(best)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write `checkpoint`, then remove what need not be kept.

        Raises:
            OSError: the disk is full or fails; nothing that was there before is touched.
        """
        target = self.folder(checkpoint.step)
        assert not target.exists(), f"{target} was saved before"
        partial = self.path / f"{_PARTIAL}{target.name}"
        with self._explaining(partial, checkpoint.step):
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            partial.mkdir()
            _write(partial, checkpoint)
            _flush(partial)
            partial.rename(target)
            _flush(self.path)
        self._prune(checkpoint.state.get("best_step"))
        return target

    def load(self, step: int) -> Checkpoint:
        """Read the checkpoint of `step`.

        Raises:
            ValueError: a file is missing or cut short; the message names it and the checkpoint before.
        """
        folder, earlier = self.folder(step), [other for other in self.steps() if other < step]
        remedy = "there is no earlier checkpoint; start again"
        if earlier:
            remedy = f"remove {folder} to continue from {self.folder(earlier[-1])}"
        return Checkpoint(
            step=step,
            trained=_read_tensors(folder / TRAINED, remedy),
            optimizer_tensors=_read_tensors(folder / OPTIMIZER, remedy),
            optimizer_record=_read_json(folder / OPTIMIZER_RECORD, remedy),
            state=_read_json(folder / STATE, remedy),
        )

    @contextmanager
    def _explaining(self, partial: Path, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = self.last()
            intact = "no checkpoint exists yet" if last is None else f"{last} is intact"
            reason = error.strerror if isinstance(error, OSError) else error
            message = f"Could not save step {step} into {self.path}: {reason}; {intact}. Free some space and resume."
            raise OSError(getattr(error, "errno", None) or errno.EIO, message) from None

    def _prune(self, best: int | None) -> None:
        for step in self.steps()[: -self.keep_last]:
            if step != best:
                # Renamed first: a removal that is cut short must not leave half a checkpoint under a valid name.
                discarded = self.folder(step).rename(self.path / f"{_DISCARDED}{step}")
                shutil.rmtree(discarded)

    def _remove_leftovers(self) -> None:
        for prefix in (_PARTIAL, _DISCARDED):
            for leftover in self.path.glob(f"{prefix}*"):
                shutil.rmtree(leftover)


def load_trained(model: nn.Module, folder: Path) -> None:
    """Put the trained parameters of the checkpoint `folder` into `model`, strictly.

    Raises:
        ValueError: a name is missing or left over, a shape or a dtype differs, or the file is cut short.
    """
    restore_parameters(
        {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad},
        _read_tensors(folder / TRAINED, "choose another checkpoint, or copy the run again"),
        source=str(folder / TRAINED),
    )


def restore_parameters(parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `saved` into `parameters`: the same names, shapes and dtypes, or a ValueError that names the difference."""
    copy_tensors(saved, parameters, source=source, remedy="Attach the adapter that the run was made with")


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    _write_tensors(folder / TRAINED, checkpoint.trained)
    _write_tensors(folder / OPTIMIZER, checkpoint.optimizer_tensors)
    _write_json(folder / OPTIMIZER_RECORD, checkpoint.optimizer_record)
    _write_json(folder / STATE, {"step": checkpoint.step, **checkpoint.state})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One after the other: no second copy of the model is made, on whatever device it is."""
    # The largest numbers first, as the format's own writer has it: each then begins at a multiple of its size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    write_tensor_file(path, {name: Place.of(tensor) for name, tensor in ordered}, ordered, metadata={"format": "pt"})


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record))
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    try:
        return read_tensor_file(path, remedy=remedy).tensors
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {remedy}.") from None


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__}, no object")
        return record
    except (ValueError, RecursionError, FileNotFoundError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): {remedy}.") from None
