"""What a behaviour cloner's training sees, against the same computed plainly, value by value."""

from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from vla_tune.data import training_pipeline
from vla_tune.data.normalize import ends
from vla_tune.data.transforms import Transformed
from vla_tune.schema import ColumnStatistics, Contract
from vla_tune.training.feed import StepSampler, feed

SEED, SIZE, COUNT = 5, 32, 8
PLACES = 3
"""The stream of numbers from which shifts are drawn."""
ALL_WAYS = ("quantile", "min_max", "mean_std", "none")


@pytest.fixture
def contract(shift, robots, contract_for) -> Contract:
    """Two cameras, one of them twice as large as what the network sees; each dimension is scaled in a way of its own."""
    made = contract_for(robots["two_cameras"], replace(shift, shift=0.06))
    statistics = made.statistics
    state, action = (replace(part, normalization=ALL_WAYS) for part in (statistics.state, statistics.action))
    return replace(made, statistics=replace(statistics, state=state, action=action))


def test_batches_are_bitwise_those_of_plain_code(contract: Contract, checkpoint_for, frames_of):
    interface, frames = checkpoint_for(contract.embodiment).interface(contract), frames_of(contract.embodiment, COUNT)
    for frame in frames:
        frame["actions"] = np.random.default_rng(int(frame["index"][1])).normal(0, 0.02, (4, 4)).astype(np.float32)
    samples = Transformed(frames, training_pipeline(contract, interface))
    sampler = StepSampler(size=COUNT, batch_size=3, gradient_accumulation=2, seed=SEED)
    with feed(samples, sampler, start=0, stop=4, pad_id=interface.pad_id, workers=0, device="cpu") as steps:
        batches = [batch.tensors() for fetched in steps for batch in fetched.batches]
    assert len(batches) == 8
    for number, batch in enumerate(batches):
        wanted = plain_batch(frames, contract, first=3 * number, count=3)
        assert batch.keys() == wanted.keys()
        for name, tensor in batch.items():
            assert tensor.dtype == torch.from_numpy(wanted[name]).dtype, name
            assert np.array_equal(tensor.numpy(), wanted[name]), name


def plain_batch(frames: list[dict[str, Any]], contract: Contract, *, first: int, count: int) -> dict[str, np.ndarray]:
    orders = [np.random.default_rng([SEED, epoch]).permutation(COUNT) for epoch in range(4)]
    rows = [plain_sample(frames[orders[at // COUNT][at % COUNT]], contract, at) for at in range(first, first + count)]
    length = max(len(row["input_ids"]) for row in rows)
    lengths = np.array([len(row["input_ids"]) for row in rows])
    for row in rows:
        row["input_ids"] = np.pad(row["input_ids"], (0, length - len(row["input_ids"])))
    text = {"attention_mask": np.arange(length) < lengths[:, None], "placeholders": np.zeros((count, length), bool)}
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | text | {"prompt_length": lengths}


def plain_sample(frame: dict[str, Any], contract: Contract, number: int) -> dict[str, np.ndarray]:
    body = contract.embodiment
    views = dict[str, np.ndarray]()
    for place, role in enumerate(sorted(frame["images"])):
        image = frame["images"][role]
        numbers = np.random.default_rng([PLACES, SEED, number, place])
        for axis, side in enumerate(image.shape[:2]):
            most = max(1, round(0.06 * side))
            image = image.take(np.clip(np.arange(side) + numbers.integers(-most, most + 1), 0, side - 1), axis)
        small = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BOX))
        views[role] = small.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return {
        "pixel_values": np.stack([views[camera.role] for camera in body.cameras]),
        "input_ids": np.array([crc32(word.encode()) for word in frame["instruction"].split()]),
        "state": plainly_scaled(frame[body.state_key][None], contract.statistics.state)[0],
        "actions": plainly_scaled(frame["actions"], contract.statistics.action),
        "action_mask": frame["action_mask"],
        "index": frame["index"],
    }


def plainly_scaled(values: np.ndarray, statistics: ColumnStatistics) -> np.ndarray:
    low, high = ends(statistics)
    scaled = values.astype(np.float32)
    for dimension, way in enumerate(statistics.normalization):
        numbers = 2 * (values[:, dimension] - low[dimension]) / (high[dimension] - low[dimension] + 1e-8) - 1
        if low[dimension] == high[dimension]:
            numbers[:] = 0
        if way != "none":
            scaled[:, dimension] = np.clip(numbers, -1, 1) if way in ("quantile", "min_max") else numbers
    return scaled
