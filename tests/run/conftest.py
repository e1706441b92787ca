"""Finished runs over a tiny base, as far as other commands read them; a disk that refuses a write."""

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.schema import BaseWeights


@pytest.fixture
def frames() -> list[dict[str, Any]]:
    """Frames with actions, as a dataset has them."""
    noise = np.random.default_rng(0)
    return [
        {
            "observation.images.front": noise.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            "observation.state": noise.uniform(0, 0.1, 4).astype(np.float32),
            "instruction": "lift the red block",
            "index": np.array([0, row]),
            "actions": noise.uniform(-0.02, 0.02, (4, 4)).astype(np.float32),
            "action_mask": np.ones((4, 4), dtype=bool),
        }
        for row in range(6)
    ]


@pytest.fixture
def base(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    with torch.no_grad():  # freshly initialised, it would say the same whatever it sees
        for weight in tiny_model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    save_checkpoint(tmp_path / "base", tiny_model, tiny_tokenizer, tiny_contract)
    return tmp_path / "base"


@pytest.fixture
def run_of(base: Path, tiny_contract, configuration):
    """Makes what of a finished run is read; what it learned is noise."""

    def make(name: str, *, adapter: str, seed: int, scale: float = 0.1, **contract) -> Path:
        cfg = configuration("train", f"adapter={adapter}", f"model.folder={base}")
        run, checkpoint, method = base.parent / name, OpenVLACheckpoint(str(base), base=cfg.adapter.base), instantiate(cfg.adapter)
        model = checkpoint.load(device="cpu")
        torch.manual_seed(seed)
        method.attach(model)
        for parameter in method.stored(model).values():
            parameter.data += scale * torch.randn(parameter.shape)
        method.save(run / "adapter", model, base_hash=checkpoint.content_hash())
        (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
        replace(tiny_contract, **contract).save(run)
        own = BaseWeights(content_hash=checkpoint.content_hash(), format=method.base)
        replace(tiny_contract, **contract, base=own).save(run / "adapter")
        return run

    return make


@dataclass
class Disk:
    """Sees every change of what lies in a folder, and refuses the one that it is told to."""

    changes: list[str] = field(default_factory=list)
    """Names, in order."""
    before: Callable[[], object] = lambda: None
    """Called before each."""

    @contextmanager
    def watching(self, folder: Path, *, refuses: int | None = None, number: int = 0) -> Iterator["Disk"]:
        """In this block; the change with the number `refuses` raises the system's error `number`."""
        self.changes, whole = [], {}

        def changed(path: Any) -> None:
            if not (isinstance(path, str | os.PathLike) and Path(path).is_relative_to(folder)) or Path(path).is_dir():
                return
            self.before()
            self.changes.append(Path(path).name)
            if refuses == len(self.changes) - 1:
                raise OSError(number, os.strerror(number), str(path))

        def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if set(mode) & set("wax+"):
                changed(file)
            return whole["open"](file, mode, *arguments, **options)

        def moving(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                changed(arguments[-1] if name != "mkdir" else arguments[0])
                return whole[name](*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            whole |= {"open": io.open, **{name: getattr(os, name) for name in ("mkdir", "rename", "replace")}}
            patch.setattr(io, "open", opening)
            patch.setattr(builtins, "open", opening)
            for name in ("mkdir", "rename", "replace"):
                patch.setattr(os, name, moving(name))
            yield self


@pytest.fixture
def disk() -> Disk:
    return Disk()
