"""Beyond an episode's end nothing moves, whatever an action is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_tune.data.dataset import ChunksByTimestamp, Demonstrations, Rest
from vla_tune.data.sources import Local, load_demonstrations
from vla_tune.schema import Embodiment, to_record


@pytest.mark.parametrize(
    ("rotation", "dimension", "rest"),
    [
        ("none", 2, [0, 0]),
        ("euler_xyz", 3, [0, 0, 0]),
        ("rotation_vector", 3, [0, 0, 0]),
        ("quaternion_xyzw", 4, [0, 0, 0, 1]),
        ("rotation_6d", 6, [1, 0, 0, 0, 1, 0]),
    ],
)
def test_motions_end_and_places_stay(rotation: str, dimension: int, rest: list[float], body: Embodiment):
    motion = replace(body.action[0], rotation=rotation, dimension=dimension, names=())
    place = replace(motion, name="place", representation="absolute")
    actions = np.random.default_rng(0).normal(size=(3, 2 * dimension)).astype(np.float32)
    counted = np.array([True, False, False])[:, None].repeat(2 * dimension, axis=1)
    padded = Rest.of([motion, place]).after(actions, counted)
    assert np.array_equal(padded[0], actions[0])
    assert np.array_equal(padded[1:, dimension:], actions[1:, dimension:])
    assert padded[1:, :dimension].tolist() == [rest, rest]
    assert padded.dtype == np.float32


def test_tokenizers_are_fitted_to_the_chunks_that_are_learned(image_folder: Path, body: Embodiment):
    data = load_demonstrations(
        embodiment=to_record(body),
        sources=[Local(str(image_folder))],
        weights=[1.0],
        chunks=ChunksByTimestamp(4),
        held_out=0.25,
        seed=0,
    )
    part = data.actions.parts[0]
    assert isinstance(part, Demonstrations)
    assert not data.actions.counted.all()
    for chunk, counted, index in zip(data.actions.chunks, data.actions.counted, range(len(part)), strict=True):
        sample = part[index]
        assert np.array_equal(counted, sample["action_mask"])
        still = data.actions._scale.forward(sample["actions"])
        assert np.array_equal(chunk, still)
        assert np.array_equal(sample["actions"][~counted[:, 0], :3], np.zeros((int((~counted[:, 0]).sum()), 3)))
