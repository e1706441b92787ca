"""What a batch could trip over is named before the first step."""

import io
import logging
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from vla_tune.data import inspection
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.inspection import check_data, check_headers, unit_warnings
from vla_tune.data.pipeline import build_pipeline
from vla_tune.data.sources import Local, load_demonstrations
from vla_tune.data.transforms import Transformed
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import Contract, Embodiment, Gripper, to_record

KEY = "observation.images.front"
DATA, TASKS = "data/chunk-000/file-000.parquet", "meta/tasks.parquet"
Rewrite = Callable[..., Path]
Replace = Callable[[pa.Table, str, Sequence[Any]], pa.Table]


@pytest.fixture(scope="module")
def folder(body: Embodiment, recorded: list[list[dict]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Actions as the built-in robot has them: small motions, a suction that is off and then on."""
    root = tmp_path_factory.mktemp("data") / "small"
    action = [np.array([0.01, 0.02, 0.01 * number, number > 0], np.float32) for number in range(6)]
    numbers = [{body.action_key: values, body.state_key: values} for values in action]
    episodes = [[frame | numbers[place] for place, frame in enumerate(rows)] for rows in recorded]
    write_episodes(root, episodes, embodiment=body, storage=Storage("image"))
    return root


@pytest.fixture
def check(tiny_contract: Contract, tiny_tokenizer: Any) -> Callable[..., None]:
    def check_(root: Path, body: Embodiment = tiny_contract.embodiment, **changes: Any) -> None:
        parts: dict[str, Any] = {"embodiment": to_record(body), "sources": [Local(str(root))], "weights": [1.0]}
        data = load_demonstrations(**parts, chunks=ChunksByTimestamp(4), held_out=0.25, seed=0)
        contract = replace(tiny_contract, embodiment=body, statistics=data.statistics, **changes)
        check_data(data, contract, OpenVLAInputs.of(contract, tiny_tokenizer))

    return check_


def with_pictures(table: pa.Table, replaced: Replace, encoded: dict[int, bytes]) -> pa.Table:
    pictures = table[KEY].to_pylist()
    return replaced(table, KEY, [old | {"bytes": encoded.get(row, old["bytes"])} for row, old in enumerate(pictures)])


def png(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG whose header says 40,000 x 40,000."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    rest = png(np.zeros((2, 2, 3), np.uint8))[33:]
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + rest


def test_right_data_pass_without_a_word(folder: Path, check: Callable[..., None], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        check(folder)
    assert not caplog.text


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("举起红色", "does not know"),
        ("lift the red block " * 200, "the model reads at most 512"),
    ],
)
def test_a_sentence_of_which_no_prompt_can_be_made(
    sentence: str, why: str, folder: Path, check: Callable[..., None], rewritten: Rewrite
):
    table = pa.table({"task_index": [0, 1], "task": ["lift the red block", sentence]})
    root = rewritten(folder, TASKS, lambda _: table)
    with pytest.raises(ValueError, match=rf"episode 1, frame 0: .*{why}.*exclude=\[1\]"):
        check(root)


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (png(np.zeros((48, 64, 3), np.uint8)), "is 48 x 64 pixels, the embodiment says 64 x 64"),
        (bomb(), "cannot be decoded .*1600000000 pixels"),
        (b"no picture", "cannot be decoded"),
        (png(np.zeros((64, 64), np.float32), "TIFF"), "has 'F' values"),
        (png(np.zeros((64, 64), np.int32), "TIFF"), "has 'I' values"),
    ],
    ids=["size", "bomb", "bytes", "float", "int"],
)
def test_a_picture_that_is_none_of_the_cameras(
    picture: bytes, why: str, folder: Path, body: Embodiment, check: Callable[..., None], rewritten: Rewrite, replaced: Replace
):
    root = rewritten(folder, DATA, lambda table: with_pictures(table, replaced, {13: picture}))
    named = rf"'{KEY}' of episode 3, frame 2 {why}"
    with pytest.raises(ValueError, match=named):
        check(root)
    data = Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(4))
    with pytest.raises(ValueError, match=named):
        data[13]


def test_pictures_of_16_bits_keep_their_range_and_are_told_of(
    folder: Path,
    body: Embodiment,
    check: Callable[..., None],
    rewritten: Rewrite,
    replaced: Replace,
    caplog: pytest.LogCaptureFixture,
):
    values = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    root = rewritten(folder, DATA, lambda table: with_pictures(table, replaced, {13: png(values)}))
    with caplog.at_level(logging.WARNING):
        check(root)
    assert "episode 3, frame 2, and 0 more, is a 16 bit picture" in caplog.text
    shown = Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(4))[13][KEY]
    assert np.array_equal(shown, np.repeat(np.round(values / 257.0).astype(np.uint8)[..., None], 3, axis=2))
    assert len(np.unique(shown)) == 256


def test_a_video_of_another_size_is_named(
    video_folder: Path, body: Embodiment, tmp_path: Path, recorded: list[list[dict]], rewritten: Rewrite
):
    small = replace(body, cameras=(replace(body.cameras[0], height=32, width=32),))
    episodes = [[frame | {KEY: frame[KEY][::2, ::2]} for frame in rows] for rows in recorded]
    write_episodes(tmp_path / "small", episodes, embodiment=small, storage=Storage("video"))
    root = rewritten(video_folder, TASKS, lambda table: table)
    film = next((tmp_path / "small").glob("videos/*/*/*.mp4"))
    next(root.glob("videos/*/*/*.mp4")).write_bytes(film.read_bytes())
    data = Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(4))
    with pytest.raises(ValueError, match=rf"'{KEY}' of episode 0, frame 0 is 32 x 32 pixels, the embodiment says 64 x 64"):
        check_headers(data)
    with pytest.raises(ValueError, match=r"episode 3, frame 0 is 32 x 32 pixels"):
        data[12]


def test_of_much_data_some_episodes_are_looked_at_and_that_is_told(
    folder: Path,
    body: Embodiment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rewritten: Rewrite,
    replaced: Replace,
):
    root = rewritten(folder, DATA, lambda table: with_pictures(table, replaced, {4: b"no picture"}))
    data = Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(4))
    monkeypatch.setattr(inspection, "LOOKED_AT_BYTES", (root / DATA).stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        check_headers(data)
    assert "pictures of 2 of 4 episodes are looked at before training" in caplog.text
    with pytest.raises(ValueError, match="episode 1, frame 1"):
        data[4]


def test_degrees_that_are_not_scaled_are_refused(
    folder: Path, check: Callable[..., None], rewritten: Rewrite, replaced: Replace, body: Embodiment
):
    def change(table: pa.Table) -> pa.Table:
        return replaced(table, "action", [[90.0 * value for value in row[:3]] + row[3:] for row in table["action"].to_pylist()])

    root = rewritten(folder, DATA, change)
    check(root)
    joints = replace(body.action[0], normalization="none", unit="deg", name="joints")
    with pytest.raises(
        ValueError,
        match=r"action joints_1 is not scaled .* goes from 1\.8 to 1\.8 .*`normalization: quantile` at action group 'joints'",
    ):
        check(root, replace(body, action=(joints, body.action[1])))


@pytest.mark.parametrize(
    ("gripper", "why"),
    [
        (Gripper(engaged=1.0, released=-1.0), "which go from 0 to 1, it is never released"),
        (Gripper(engaged=0.4, released=0.0), "go from 0 to 1, beyond its ends"),
        (Gripper(engaged=0.0, released=1.0), "episodes begin engaged"),
    ],
)
def test_a_gripper_whose_ends_are_not_those_of_the_data_is_told(
    gripper: Gripper, why: str, folder: Path, body: Embodiment, check: Callable[..., None], caplog: pytest.LogCaptureFixture
):
    other = replace(body, action=(body.action[0], replace(body.action[1], gripper=gripper)))
    with caplog.at_level(logging.WARNING):
        check(folder, other)
    assert "suction: " in caplog.text
    assert why in caplog.text


def test_an_error_of_the_pipeline_names_episode_and_frame(
    image_folder: Path, body: Embodiment, tiny_contract: Contract, tiny_tokenizer: Any
):
    samples = Demonstrations(image_folder, embodiment=body, chunks=ChunksByTimestamp(3))
    with pytest.raises(ValueError, match=r"episode 1, frame 1: the dataset gives chunks of 3 actions, the contract says 4"):
        Transformed(samples, build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)))[4]


@pytest.mark.parametrize("whole", [1, 11])  # LeRobot keeps the list of the first ten in memory
def test_a_recording_that_was_killed_is_refused(whole: int, body: Embodiment, recorded: list[list[dict]], tmp_path: Path):
    def until_killed() -> Iterator[list[dict]]:
        yield from [recorded[2]] * whole
        shutil.copytree(tmp_path / "data", tmp_path / "left")
        yield recorded[2]

    write_episodes(tmp_path / "data", until_killed(), embodiment=body, storage=Storage("image"))
    with pytest.raises((ValueError, FileNotFoundError), match=r"left.* (the recording was interrupted|it is damaged)"):
        Demonstrations(tmp_path / "left", embodiment=body, chunks=ChunksByTimestamp(4))


@pytest.mark.parametrize(("unit", "factor", "other"), [("deg", 1.0, "rad"), ("rad", 100.0, "deg")])
def test_degrees_that_look_like_radians(
    unit: str, factor: float, other: str, recorded: list[list[dict]], body: Embodiment, tiny_contract: Contract
):
    state = replace(body.state[0], name="joints", unit=unit)
    column = tiny_contract.statistics.state
    numbers = {key: tuple(factor * value for value in values) for key, values in column.numbers.items()}
    contract = replace(
        tiny_contract,
        embodiment=replace(body, state=(state, body.state[1])),
        statistics=replace(tiny_contract.statistics, state=replace(column, **numbers)),
    )
    (said,) = unit_warnings(contract)
    assert f"state joints is in {unit}" in said
    assert f"data.sources.0.units={{joints: {other}}} converts them" in said
    assert not list(unit_warnings(tiny_contract))
