"""Small LeRobot datasets, written by the library's own writer."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a dataset with one column of one of its files changed, or with rows in another order."""

    def rewrite(root: Path, file: str, change: Callable[[pa.Table], pa.Table], name: str = "copy") -> Path:
        copy = shutil.copytree(root, tmp_path / name, dirs_exist_ok=True)
        pq.write_table(change(pq.ParquetFile(copy / file).read()), copy / file, row_group_size=4)
        return copy

    return rewrite


@pytest.fixture(scope="session")
def replaced() -> Callable[[pa.Table, str, Sequence[Any]], pa.Table]:
    """A table with other values in one column."""

    def replace_(table: pa.Table, column: str, values: Sequence[Any]) -> pa.Table:
        return table.set_column(
            table.column_names.index(column), table.field(column), pa.array(list(values), table.schema.field(column).type)
        )

    return replace_
