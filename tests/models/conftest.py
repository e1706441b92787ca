"""The tiny models that the original code was run on (golden README §2, §3): published folders, and what the original computed.

openvla c8f03f4 on transformers 4.40.1, torch 2.2.0 and timm 0.9.10, in float32 on a CPU. Their weights are random numbers that
each tensor's seed gives; the manifest holds the hash of every tensor.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ("config.json", "dataset_statistics.json", "generation_config.json", "preprocessor_config.json")


class Two(nn.Module):
    """Two linear layers: a gradient at the first one passed the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(128, 64, bias=False)
        self.second = nn.Linear(64, 128)

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))


@pytest.fixture
def make_two() -> Callable[[], Two]:
    """More of them, each with other weights."""
    return Two


@pytest.fixture
def two(make_two: Callable[[], Two]) -> Two:
    torch.manual_seed(0)
    return make_two()


@dataclass(frozen=True)
class Original:
    """One of the original's models."""

    name: str
    folder: Path
    """As published; the weights are bfloat16."""

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((GOLDEN / self.name / "meta.json").read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return dict(np.load(GOLDEN / self.name / f"{name}.npz"))

    def model(self) -> OpenVLA:
        """In float32, as the original computed."""
        return OpenVLACheckpoint(str(self.folder), base="fp32").load(device="cpu")


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first numbers of the generator (Steele, Lea and Flood 2014), in [-1, 1)."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return 2 * (state >> np.uint64(11)).astype(np.float64) / 2**53 - 1


def centre_and_spread(name: str, shape: list[int]) -> tuple[float, float]:
    """Between which numbers the weights of a tensor lie."""
    leaf = name.rpartition(".")[2]
    known = {"scale_factor": (0.75, 0.5), "bias": (0.0, 0.2)}
    if leaf in known:
        return known[leaf]
    if "norm" in name:
        return 1.0, 0.3
    if "embed_tokens" in name:
        return 0.0, 0.8
    if leaf != "weight":  # positions, class and register tokens
        return 0.0, 0.5
    return 0.0, math.sqrt((12 if "lm_head" in name else 3) / math.prod(shape[1:]))


def golden_weights(name: str) -> dict[str, torch.Tensor]:
    """Every weight of an original model, bfloat16; those of the action codes are thrice as large, so that they win."""
    weights = {}
    for key, entry in json.loads((GOLDEN / name / "weights_manifest.json").read_text()).items():
        shape = entry["shape"]
        centre, spread = centre_and_spread(key, shape)
        numbers = (centre + spread * splitmix64(entry["seed"], math.prod(shape))).reshape(shape)
        if "lm_head" in key:
            numbers[-64 - 256 : -64] *= 3
        weights[key] = torch.from_numpy(numbers.astype(np.float32)).to(torch.bfloat16)
        assert hashlib.sha256(weights[key].float().numpy().tobytes()).hexdigest() == entry["sha256_f32"], key
    return weights


def write_original(name: str, folder: Path) -> Original:
    """A published folder; `timm_kwargs`, which the original's run added to its timm calls, is ours."""
    folder.mkdir()
    for file in FILES:
        shutil.copy(GOLDEN / name / file, folder / file)
    for file in (GOLDEN / "tokenizer_tiny").iterdir():
        shutil.copy(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    small = json.loads((GOLDEN / "tiny_vit_kwargs.json").read_text())
    config["timm_kwargs"] = [small[tower] for tower in config["timm_model_ids"]]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(golden_weights(name), folder / "model.safetensors", metadata={"format": "pt"})
    return Original(name, folder)


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """DINOv2 and SigLIP, a plain Llama with 32,064 rows; its tokenizer, which is Llama-2's, is not here: ids are stored."""
    return write_original("fused", tmp_path_factory.mktemp("original") / "fused")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """SigLIP alone, Vicuna's prompt and a tokenizer of 800 pieces."""
    return write_original("siglip", tmp_path_factory.mktemp("original") / "siglip")


@pytest.fixture(scope="session", params=["fused", "siglip"])
def original(request: pytest.FixtureRequest) -> Original:
    """Each of them."""
    return request.getfixturevalue(request.param)
