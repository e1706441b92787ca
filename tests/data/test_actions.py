from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_tune.data import build_pipeline
from vla_tune.data.actions import NormalizedActions
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.statistics import dataset_statistics
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Contract, Embodiment
from vla_tune.tokens import TrainingActions


def opened(folder: Path, body: Embodiment) -> Demonstrations:
    return Demonstrations(folder, embodiment=body, chunks=ChunksByTimestamp(3))


@pytest.mark.parametrize("representation", ["delta", "relative_to_first"])
def test_chunks_are_those_that_training_sees(
    image_folder: Path, tiny_contract: Contract, tiny_tokenizer, representation: str, monkeypatch: pytest.MonkeyPatch
):
    """Relative, normalised and clipped, in the order of the samples."""
    body = tiny_contract.embodiment
    if representation == "relative_to_first":
        state = replace(body.state[0], name="tool")
        action = replace(body.action[0], name="tool", representation="relative_to_first")
        body = replace(body, state=(state, body.state[1]), action=(action, body.action[1]))
    data = opened(image_folder, body)
    statistics = dataset_statistics(data)
    actions = NormalizedActions([data.select([0, 1]), data.select([2, 3])], statistics)
    assert isinstance(actions, TrainingActions)
    contract = replace(tiny_contract, embodiment=body, statistics=statistics, horizon=3)
    pipeline = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))
    samples = [pipeline(data[row]) for row in range(len(data))]
    assert actions.chunks.shape == (16, 3, 4)
    assert (actions.chunks == np.stack([sample["actions"] for sample in samples])).all()
    assert (actions.counted == np.stack([sample["action_mask"] for sample in samples])).all()


def test_values_outside_are_kept_apart(image_folder: Path, body: Embodiment):
    data = opened(image_folder, body)
    actions = NormalizedActions([data], dataset_statistics(data))
    scaled = actions.unclipped[..., :3]
    assert np.abs(scaled).max() > 1
    assert actions.chunks[..., :3] == pytest.approx(np.clip(scaled, -1, 1), abs=1e-6)
    assert (actions.unclipped[..., 3] == actions.chunks[..., 3]).all(), "the suction is not scaled"


def test_no_picture_is_read(image_folder: Path, body: Embodiment, monkeypatch: pytest.MonkeyPatch):
    data = opened(image_folder, body)
    monkeypatch.setattr(data, "images", {})
    assert len(NormalizedActions([data], dataset_statistics(data)).chunks) == 16
