"""Frames beside a policy tell whether it still is the function that was trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from vla_tune.check.kept import KEPT_FILE, Kept, keeps_its_actions
from vla_tune.schema import Gripper, Observation

NOISE = np.random.default_rng(0)


@pytest.fixture
def kept(tiny_contract) -> Kept:
    body = tiny_contract.embodiment
    images = [NOISE.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(5)]
    seen = [Observation({"front": image}, NOISE.normal(size=4).astype(np.float32), f"do {row}") for row, image in enumerate(images)]
    return Kept(seen, acts(seen, body.action_dimension))


class Acting:
    """A policy that is a function of what is seen."""

    def __init__(self, function) -> None:
        self.act = function

    def reset(self) -> None: ...


def acts(observations, dimension: int = 4) -> np.ndarray:
    """A function of all that is seen."""
    values = [[one.images["front"].mean() / 255, *one.state[:2], len(one.instruction) / 10] for one in observations]
    return np.repeat(0.03 * np.array(values, np.float32)[:, None, :dimension], 4, axis=1)


def test_what_is_saved_is_loaded(kept, tmp_path):
    kept.save(tmp_path)
    read = Kept.load(tmp_path)
    assert np.array_equal(read.chunks, kept.chunks)
    for one, other in zip(read.seen, kept.seen, strict=True):
        assert one.instruction == other.instruction
        assert np.array_equal(one.state, other.state)
        assert np.array_equal(one.images["front"], other.images["front"])


def test_the_same_function_passes(kept, tiny_contract):
    finding = keeps_its_actions(Acting(acts), kept, tiny_contract)
    assert finding.passed
    assert finding.said.startswith("on 5 recorded frames 0 %")


def test_another_function_does_not(kept, tiny_contract):
    for change in (lambda chunk: 2 * chunk, lambda chunk: -chunk, lambda chunk: chunk[..., ::-1]):
        finding = keeps_its_actions(Acting(lambda seen, change=change: change(acts(seen))), kept, tiny_contract)
        assert not finding.passed
        assert "not the function that was trained" in finding.said
    short = keeps_its_actions(Acting(lambda seen: acts(seen)[:, :2]), kept, tiny_contract)
    assert "the chunks are [2, 4], in training they were [4, 4]" in short.said


def test_another_meaning_does_not(kept, tiny_contract, tmp_path):
    """The weights act as before, the robot would do another thing."""
    Kept.of(Acting(acts), kept.seen, tiny_contract).save(tmp_path)
    read, body = Kept.load(tmp_path), tiny_contract.embodiment
    assert keeps_its_actions(Acting(acts), read, tiny_contract).passed
    first, *rest = body.action
    changes = {
        "unit": replace(body, action=(replace(first, unit="mm"), *rest)),
        "frame": replace(body, action=(replace(first, frame="robot_base"), *rest)),
        "representation": replace(body, action=(replace(first, representation="absolute"), *rest)),
        "key": replace(body, cameras=(replace(body.cameras[0], key="observation.images.wrist"),)),
        "control_hz": replace(body, control_hz=50.0),
        "engaged": replace(body, action=(first, replace(rest[0], gripper=Gripper(engaged=0.0, released=1.0)))),
    }
    for name, other in changes.items():
        finding = keeps_its_actions(Acting(acts), read, replace(tiny_contract, embodiment=other))
        assert not finding.passed
        assert name in finding.said
    assert keeps_its_actions(Acting(acts), read, replace(tiny_contract, jpeg_quality=90)).passed


def test_the_contract_in_the_file_is_read_strictly(kept, tiny_contract, tmp_path):
    Kept.of(Acting(acts), kept.seen, tiny_contract).save(tmp_path)
    path = tmp_path / KEPT_FILE
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(rb"\"execute_steps\": 4", rb"\"execute_steps\": 3"))
    with pytest.raises(ValueError, match=r"probe\.safetensors.*do not match their hash"):
        Kept.load(tmp_path)


def test_missing_and_damaged_files_are_named(kept, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"probe.safetensors is missing: it is written when a run is trained"):
        Kept.load(tmp_path)
    kept.save(tmp_path)
    whole = (tmp_path / KEPT_FILE).read_bytes()
    for broken in (b"", whole[:50], whole[: len(whole) // 2]):
        (tmp_path / KEPT_FILE).write_bytes(broken)
        with pytest.raises(ValueError, match=r"probe.safetensors is damaged .*: export the run again"):
            Kept.load(tmp_path)


def _retold(folder: Path, change: Callable[[dict, dict], None]) -> None:
    with safe_open(folder / KEPT_FILE, framework="np") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, folder / KEPT_FILE, metadata=metadata)


def _many(tensors: dict, metadata: dict) -> None:
    tensors |= {name: np.repeat(tensor, 100, axis=0) for name, tensor in tensors.items()}
    metadata["instructions"] = json.dumps(100 * ["lift"])


TOLD = {
    "a thousand frames": _many,
    "no frames": lambda tensors, metadata: metadata.update(instructions="[]"),
    "a mapping": lambda tensors, metadata: metadata.update(instructions='{"a": 1}'),
    "numbers": lambda tensors, metadata: metadata.update(instructions="[1]"),
    "a book": lambda tensors, metadata: metadata.update(instructions=json.dumps(["a " * 5000])),
    "no pictures": lambda tensors, metadata: tensors.update({"image/front": np.zeros(1, np.uint8)}),
    "no chunks": lambda tensors, metadata: tensors.update(chunks=np.zeros(1)),
    "no numbers": lambda tensors, metadata: tensors.update(state=np.zeros((1, 4), bool)),
}


@pytest.mark.parametrize("told", TOLD)
def test_a_probe_is_a_few_frames(tmp_path: Path, tiny_contract, told: str):
    seen = [Observation({"front": np.zeros((64, 64, 3), np.uint8)}, np.zeros(4, np.float32), "lift")]
    Kept(seen, np.zeros((1, 4, 4)), tiny_contract).save(tmp_path)
    assert len(Kept.load(tmp_path).seen) == 1
    _retold(tmp_path, TOLD[told])
    with pytest.raises(ValueError, match=r"probe\.safetensors is damaged"):
        Kept.load(tmp_path)
