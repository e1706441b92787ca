"""How long a checkpoint takes to load in 4 bits, and how much memory on the way."""

import hashlib
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vla_tune.bench.measure import Rates, Reading, Row, read_clocks, rows_of
from vla_tune.bench.synthetic import random_checkpoint
from vla_tune.models.files import weight_files
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.load import load
from vla_tune.models.precision import weight_report


class Loaded(NamedTuple):
    """What one load took."""

    seconds: Reading
    peak_bytes: int
    """The most anonymous memory that the load added: mapped files do not count."""
    model_bytes: int
    """Of the finished model's weights."""
    sha256: str
    """Over names and bytes of all its tensors."""


@dataclass(frozen=True, kw_only=True)
class LoadingSuite:
    """transformers' own loader, and ours without a copy on disk, making one, and reading it; each in a process of its own."""

    folder: str
    """A checkpoint; one with random weights is written there if there is none."""
    architecture: str
    """A folder with the configuration of that one."""
    threads: int
    seed: int = 0

    def rows(self) -> list[Row]:
        """Four rows: MB of the checkpoint per second, peak and final bytes, and whether every byte is the first row's."""
        folder = Path(self.folder)
        if not folder.exists():
            random_checkpoint(folder, architecture=Path(self.architecture), seed=self.seed)
        size = sum(path.stat().st_size for path in weight_files(folder))
        with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
            loads = {name: _in_its_own_process(work, folder, Path(cache), self.threads) for name, work in WORKS.items()}
        columns = [[Rates(max(1, size // 10**6), loaded.seconds)] for loaded in loads.values()]
        rows = rows_of("loading", [(name, "MB") for name in loads], columns)
        first = next(iter(loads.values()))
        return [row | _memory(loaded, first) for row, loaded in zip(rows, loads.values(), strict=True)]


def by_transformers(folder: Path, _: Path) -> nn.Module:
    """NF4 with double quantisation by transformers and bitsandbytes."""
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["vision_backbone", "projector", "proprio_projector", "language_model.lm_head"],
    )
    return OpenVLA.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantization, device_map={"": "cpu"})


def in_memory(folder: Path, _: Path) -> nn.Module:
    """Ours without a copy."""
    return load(folder, base="nf4")


def with_copy(folder: Path, cache: Path) -> nn.Module:
    """Ours; the copy is made if there is none."""
    return load(folder, base="nf4", cache=cache)


WORKS: Mapping[str, Callable[[Path, Path], nn.Module]] = {
    "from_pretrained, NF4": by_transformers,
    "NF4": in_memory,
    "NF4, hash and copy made": with_copy,
    "NF4, from the copy": with_copy,
}


def _memory(loaded: Loaded, first: Loaded) -> Row:
    return {
        "peak_bytes": loaded.peak_bytes,
        "model_bytes": loaded.model_bytes,
        "peak_ratio": loaded.peak_bytes / loaded.model_bytes,
        "same_bytes": loaded.sha256 == first.sha256,
    }


def _in_its_own_process(work: Callable[[Path, Path], nn.Module], folder: Path, cache: Path, threads: int) -> Loaded:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # so that torch is imported once
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_load, work, folder, cache, threads).result()


def _load(work: Callable[[Path, Path], nn.Module], folder: Path, cache: Path, threads: int) -> Loaded:
    torch.set_num_threads(threads)
    with _Peak() as peak:
        start = read_clocks()
        model = work(folder, cache)
        end = read_clocks()
    size = sum(tower.bytes_ for tower in weight_report(model))
    return Loaded(Reading(end.wall - start.wall, end.cpu - start.cpu), peak.added, size, _digest(model))


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


class _Peak:
    """The most anonymous memory of this process, looked at every few milliseconds by a thread."""

    added: int = 0

    def __enter__(self) -> "_Peak":
        self._before, self._done = _anonymous(), threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            self.added = max(self.added, _anonymous() - self._before)
            if self._done.is_set():
                return
            time.sleep(0.01)


def _anonymous() -> int:
    """Bytes that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
