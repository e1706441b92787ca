"""Behaviour cloners of robots that differ: the tabletop's tool, one with two cameras of different sizes, one without a state."""

from collections.abc import Callable
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vla_tune.data import make_contract
from vla_tune.models.base import Wanted
from vla_tune.models.bc import BCCheckpoint, Sizes
from vla_tune.schema import Augmentation, Camera, ColumnStatistics, Contract, Embodiment

SMALL = Sizes(cameras=1, state_dimension=4, action_dimension=4, horizon=4, width=8, hidden=32, told=16, state_noise=0.05)
WRIST = Camera(role="wrist", key="observation.images.wrist", height=48, width=80)
NO_STATE = ColumnStatistics(mean=(), std=(), min=(), max=(), q01=(), q99=(), normalization=())


@pytest.fixture
def shift() -> Augmentation:
    """Of one pixel, and nothing else."""
    kept = {"crop_area": 1.0, "brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    return Augmentation(**kept, paraphrases={}, shift=0.016)


@pytest.fixture
def robots(tiny_contract: Contract) -> dict[str, Contract]:
    """Contracts of another family, of which only the robot's part is read."""
    body = tiny_contract.embodiment
    two = replace(tiny_contract, embodiment=replace(body, cameras=(*body.cameras, WRIST)))
    statistics = replace(tiny_contract.statistics, state=NO_STATE)
    blind = replace(tiny_contract, embodiment=replace(body, state=()), statistics=statistics)
    return {"tabletop": tiny_contract, "two_cameras": two, "without_state": blind}


@pytest.fixture
def checkpoint_for() -> Callable[..., BCCheckpoint]:
    """A small one from nothing, for a robot."""

    def made(body: Embodiment, **changed: Any) -> BCCheckpoint:
        sizes = replace(SMALL, cameras=len(body.cameras), state_dimension=body.state_dimension)
        return BCCheckpoint("nothing", size=32, sizes=asdict(replace(sizes, **changed)))

    return made


@pytest.fixture
def contract_for(checkpoint_for) -> Callable[..., Contract]:
    """The contract that a run with it begins with."""

    def made(robot: Contract, augmentation: Augmentation | None = None) -> Contract:
        unread = SimpleNamespace(chunks=None, counted=None)  # by a model without codes
        wanted = Wanted(embodiment=robot.embodiment, horizon=4, actions=unread, tokens=None, head=None)  # pyright: ignore[reportArgumentType]
        return make_contract(
            robot.embodiment,
            statistics=robot.statistics,
            horizon=4,
            execute_steps=4,
            precision="fp32",
            model=checkpoint_for(robot.embodiment).part(wanted),
            augmentation=augmentation,
        )

    return made


@pytest.fixture
def frames_of() -> Callable[..., list[dict[str, Any]]]:
    """Raw samples of a robot; the sentence and a bright or dark picture decide the action."""

    def made(body: Embodiment, count: int = 8) -> list[dict[str, Any]]:
        noise = np.random.default_rng(0)
        return [
            {
                "images": {camera.role: _picture(noise, camera, bright=row // 2 % 2) for camera in body.cameras},
                body.state_key: noise.uniform(0, 0.1, body.state_dimension).astype(np.float32),
                "instruction": ("lift the red block", "push the block")[row % 2],
                "actions": np.full((4, 4), 0.01 * (row % 2 - 0.5) * (1 + row // 2 % 2), np.float32),
                "action_mask": np.arange(4)[:, None].repeat(4, 1) < 4 - row % 3,
                "index": np.array([0, row]),
            }
            for row in range(count)
        ]

    return made


def _picture(noise: np.random.Generator, camera: Camera, *, bright: int) -> np.ndarray:
    return noise.integers(100 * bright, 100 + 100 * bright, (camera.height, camera.width, 3), dtype=np.uint8)
