"""Finished runs over a tiny base, as far as other commands read them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

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
def configuration():
    """A root configuration with overrides."""

    def make(root: str, *overrides: str) -> DictConfig:
        with initialize(version_base="1.3", config_path="../../conf"):
            return compose(root, overrides=list(overrides))

    return make


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
