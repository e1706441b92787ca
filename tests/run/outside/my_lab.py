"""What a laboratory has of its own, in one file outside of the package: an adapter, a source of demonstrations, an environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Text
from torch import Tensor, nn

from vla_tune.adapters.base import AdapterReport, check_base, report
from vla_tune.adapters.changes import Changes, Learned
from vla_tune.adapters.files import open_tensors_of, read_tensors, write_tensors
from vla_tune.data.chunks import Chunks
from vla_tune.data.dataset import Demonstrations
from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import Embodiment


@dataclass(frozen=True, kw_only=True)
class Norms:
    """The gains of the normalisations learn, and nothing else (as in arXiv 2106.09685, §2, for LayerNorm)."""

    base: str = "fp32"

    def attach(self, model: nn.Module) -> AdapterReport:
        check_base(model, self.base)
        fresh = tuple(getattr(model, "untrained", ()))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name or any(name.startswith(part.rstrip("*")) for part in fresh))
        return report(model)

    def save(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        write_tensors(folder / "norms.safetensors", _learning(model), base=self.base, base_hash=base_hash)

    def load(self, folder: Path, model: nn.Module, *, base_hash: str) -> None:
        read_tensors(folder / "norms.safetensors", _learning(model), base=self.base, base_hash=base_hash)

    def changes(self, folder: Path, *, base_hash: str) -> Changes:
        tensors = open_tensors_of(folder / "norms.safetensors", base=self.base, base_hash=base_hash)
        return {name: Learned(tensor) for name, tensor in tensors.items()}


def _learning(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Slide(gymnasium.Env):
    """A dot that shall be moved onto a line."""

    def __init__(self, task: str = "slide") -> None:
        self.action_space, picture = Box(-1, 1, (2,), np.float32), Box(0, 255, (64, 64, 3), np.uint8)
        words = Text(40, charset="abcdefghijklmnopqrstuvwxyz ")
        self.observation_space = Dict(
            {"images": Dict({"front": picture}), "state": Box(-1, 1, (2,), np.float32), "instruction": words}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.8, 0.8, 2)
        return shown(self.place), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + 0.1 * np.clip(action, -1, 1), -1, 1)
        success = bool(abs(self.place[0]) < 0.1)
        return shown(self.place), 0.0, success, False, {"success": success}


def shown(place: np.ndarray) -> dict[str, Any]:
    picture = np.full((64, 64, 3), 230, np.uint8)
    column, row = ((place + 1) * 28).astype(int)
    picture[row : row + 8, column : column + 8] = (0, 0, 200)
    return {"images": {"front": picture}, "state": place.astype(np.float32), "instruction": "slide to the line"}


gymnasium.register("Slide-v0", Slide, max_episode_steps=12)


@dataclass(frozen=True)
class Drawn:
    """Demonstrations of `Slide`, made where they are asked for, once."""

    folder: str
    episodes: int

    def open(self, embodiment: Embodiment, chunks: Chunks) -> Demonstrations:
        root = Path(self.folder)
        if not root.is_dir():
            noise = np.random.default_rng(0)
            episodes = [_episode(embodiment, noise.uniform(-0.8, 0.8, 2)) for _ in range(self.episodes)]
            write_episodes(root, episodes, embodiment=embodiment, storage=Storage("image"))
        return Demonstrations(root, embodiment=embodiment, chunks=chunks)


def _episode(body: Embodiment, place: np.ndarray) -> Sequence[dict[str, Any]]:
    frames = []
    for _ in range(8):
        action = np.array([np.clip(-10 * place[0], -1, 1), 0.3 * place[1]], np.float32)
        seen = shown(place)
        images = {camera.key: seen["images"][camera.role] for camera in body.cameras}
        frames.append(images | {body.state_key: seen["state"], body.action_key: action, "task": seen["instruction"]})
        place = np.clip(place + 0.1 * action, -1, 1)
    return frames
