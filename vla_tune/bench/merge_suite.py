"""How long a merge takes: against copying the same files, and against peft's on a model that fits into memory."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vla_tune.adapters import Lora
from vla_tune.adapters.merging import merged
from vla_tune.bench.measure import Rates, Row, rows_of
from vla_tune.bench.own_process import Took, in_its_own_process
from vla_tune.bench.synthetic import BASE_HASH, random_adapter, random_checkpoint
from vla_tune.models.files import content_hash, new_folder, weight_files
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.load import empty_model, load, load_config, weights
from vla_tune.models.weight_files import SHARD_BYTES, write_weights


@dataclass(frozen=True, kw_only=True)
class MergeSuite:
    """Works on random weights of a real shape take turns, each in a process of its own that writes and fsyncs new files."""

    folder: str
    """A checkpoint of the architecture; random weights are written there if there are none."""
    small: str
    """One of its first `small_blocks` blocks, for peft, which needs the whole model in memory."""
    architecture: str
    """A folder with the configuration of the first."""
    small_blocks: int
    adapter: Lora
    """Of which random factors are merged."""
    threads: int
    repetitions: int
    seed: int = 0

    def rows(self) -> list[Row]:
        """MB of the checkpoint per second against copying it, and of the small one against peft, with the peak of anonymous memory.

        The small rows also say whether the bytes are peft's.
        """
        return [*self._large(), *self._small()]

    def _large(self) -> list[Row]:
        folder = self._checkpoint(self.folder, None)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            cache, out, merging = Path(name) / "cache", Path(name) / "out", self._merging(folder, Path(name))
            load(folder, base="nf4", cache=cache)  # which keeps the 4-bit copy, as training does
            works = {
                "copy and fsync": partial(copied, folder, out),
                "merge, bf16": partial(merging["bf16"], out),
                "merge, NF4 copy kept": partial(merging["nf4"], out, cache=cache),
                "merge, NF4 made anew": partial(merging["nf4"], out),
            }
            return self._measured(folder, works, out, _nothing, unit="MB")

    def _small(self) -> list[Row]:
        folder = self._checkpoint(self.small, self.small_blocks)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            out, merging = Path(name) / "out", self._merging(folder, Path(name))["bf16"]
            works = {"peft": partial(merged_by_peft, folder, merging.learned, out), "merge": partial(merging, out)}
            return self._measured(folder, works, out, content_hash, unit="MB, small")

    def _measured(
        self, folder: Path, works: Mapping[str, Callable[[], Path]], out: Path, look: Callable[[Path], Any], *, unit: str
    ) -> list[Row]:
        megabytes = max(1, sum(path.stat().st_size for path in weight_files(folder)) // 10**6)
        columns: dict[str, list[Took]] = {name: [] for name in works}
        for _ in range(self.repetitions):
            for name, work in works.items():
                columns[name].append(in_its_own_process(work, look, threads=self.threads))
                shutil.rmtree(out)
        rates = [[Rates(megabytes, took.seconds) for took in column] for column in columns.values()]
        rows = rows_of("merge", [(name, unit) for name in works], rates)
        first = next(iter(columns.values()))[0].found
        return [row | _memory(column, first) for row, column in zip(rows, columns.values(), strict=True)]

    def _checkpoint(self, name: str, blocks: int | None) -> Path:
        folder = Path(name)
        if not folder.exists():
            random_checkpoint(folder, architecture=Path(self.architecture), seed=self.seed, blocks=blocks)
        return folder

    def _merging(self, folder: Path, room: Path) -> Mapping[str, "Merging"]:
        """By the format of the base."""
        found = {base: Merging(folder, replace(self.adapter, base=base), room / base) for base in ("bf16", "nf4")}
        for one in found.values():
            random_adapter(one.learned, one.adapter, checkpoint=folder, seed=self.seed)
        return found


@dataclass(frozen=True)
class Merging:
    """What `scripts/merge.py` does between its checks."""

    folder: Path
    adapter: Lora
    learned: Path
    """The adapter's folder."""

    def __call__(self, to: Path, *, cache: Path | None = None) -> Path:
        """Merge into the new folder `to`; `cache` holds the 4-bit copy that training kept."""
        config = load_config(self.folder)
        base = weights(self.folder, config, base=self.adapter.base, cache=cache)
        changes = self.adapter.changes(self.learned, base_hash=BASE_HASH)
        shapes = {name: weight.to(torch.bfloat16) for name, weight in empty_model(config).state_dict().items()}
        with new_folder(to) as temporary:
            write_weights(temporary, shapes, merged(base, changes, dtype=torch.bfloat16), shard_bytes=SHARD_BYTES)
        return to


def copied(folder: Path, to: Path) -> Path:
    """The weights once more, on the disk for certain."""
    to.mkdir()
    for path in weight_files(folder):
        shutil.copyfile(path, to / path.name)
        with (to / path.name).open("rb") as file:
            os.fsync(file.fileno())
    return to


def merged_by_peft(folder: Path, learned: Path, to: Path) -> Path:
    """The usual way: model and adapter in memory, `merge_and_unload`, `save_pretrained`."""
    from peft import PeftModel

    model = OpenVLA.from_pretrained(folder, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, str(learned)).merge_and_unload().save_pretrained(to)
    for path in weight_files(to):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return to


def _memory(column: Sequence[Took], first: object) -> Row:
    same = {} if first is None else {"same_bytes": all(took.found == first for took in column)}
    return {"process_peak_bytes": max(took.peak_bytes for took in column)} | same


def _nothing(_: Path) -> None:
    """Nothing is looked up."""
