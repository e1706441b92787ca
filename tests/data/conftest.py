"""Small LeRobot datasets, written by the library's own writer."""

from pathlib import Path

import numpy as np
import pytest

from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import Contract, Embodiment

LENGTHS = (3, 6, 2, 5)
SENTENCES = ("lift the red block", "touch the blue block")


def picture(episode: int, frame: int) -> np.ndarray:
    """A smooth picture that tells episode and frame, which video compression keeps."""
    row, column = np.mgrid[:64, :64]
    return np.stack([row * 3, column * 3, np.full((64, 64), 40 * episode + 10 * frame)], axis=2).astype(np.uint8)


def episodes(body: Embodiment, lengths: tuple[int, ...] = LENGTHS) -> list[list[dict]]:
    rng = np.random.default_rng(0)
    return [
        [
            {
                body.cameras[0].key: picture(episode, frame),
                body.state_key: rng.normal(size=4).astype(np.float32),
                body.action_key: rng.normal(size=4).astype(np.float32),
                "task": SENTENCES[episode % 2],
            }
            for frame in range(length)
        ]
        for episode, length in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def body(tiny_contract: Contract) -> Embodiment:
    return tiny_contract.embodiment


@pytest.fixture(scope="session")
def recorded(body: Embodiment) -> list[list[dict]]:
    return episodes(body)


@pytest.fixture(scope="session")
def image_folder(body: Embodiment, recorded: list[list[dict]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pictures"
    write_episodes(root, recorded, embodiment=body, storage=Storage("image"))
    return root


@pytest.fixture(scope="session")
def video_folder(body: Embodiment, recorded: list[list[dict]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    write_episodes(root, recorded, embodiment=body, storage=Storage("video"))
    return root
