"""How long a checkpoint takes to load in 4 bits, and how much memory on the way."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from vla_tune.bench.measure import Rates, Row, rows_of
from vla_tune.bench.own_process import Took, in_its_own_process
from vla_tune.bench.synthetic import random_checkpoint
from vla_tune.models.files import weight_files
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.load import load
from vla_tune.models.precision import weight_report


class Loaded(NamedTuple):
    """A finished model."""

    model_bytes: int
    """Of its weights."""
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
            works = {name: partial(work, folder, Path(cache)) for name, work in WORKS.items()}
            loads = {name: in_its_own_process(work, _loaded, threads=self.threads) for name, work in works.items()}
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


def _memory(took: Took, first: Took) -> Row:
    loaded: Loaded = took.found
    return {
        "peak_bytes": took.added_bytes,
        "model_bytes": loaded.model_bytes,
        "peak_ratio": took.added_bytes / loaded.model_bytes,
        "same_bytes": loaded.sha256 == first.found.sha256,
    }


def _loaded(model: nn.Module) -> Loaded:
    return Loaded(sum(tower.bytes_ for tower in weight_report(model)), _digest(model))


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
