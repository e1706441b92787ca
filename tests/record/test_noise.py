"""What disturbs an expert."""

from dataclasses import replace

import numpy as np
import pytest

from vla_tune.record import NoiseByLevel
from vla_tune.record.noise import Disturbing, Noise
from vla_tune.schema import Embodiment

ACTION = np.array([0.5, -0.5, 0.0, 1.0], np.float32)


def spread(noise: Disturbing, body: Embodiment, seed: int) -> np.ndarray:
    disturb = noise.begin(body, np.random.default_rng(seed))
    return np.std([disturb(ACTION, step) - ACTION for step in range(2000)], axis=0)


def test_an_episode_has_one_level_and_the_gripper_none(crane: Embodiment):
    noise = NoiseByLevel(levels=[0.0, 0.05, 0.1])
    found = np.array([spread(noise, crane, seed) for seed in range(60)])
    assert np.array_equal(found[:, 3], np.zeros(60))
    levels = np.round(found[:, :3] / 0.05)
    assert np.allclose(found[:, :3], levels * 0.05, atol=0.006)
    assert np.array_equal(levels[:, 0], levels[:, 2])
    assert all(10 < np.sum(levels[:, 0] == level) < 30 for level in range(3))


def test_a_group_may_have_a_share_and_nothing_leaves_the_range(crane: Embodiment):
    turning = replace(crane, action=(replace(crane.action[0], name="turn"), *crane.action[1:]))
    assert np.allclose(spread(NoiseByLevel(levels=[0.1], shares={"turn": 0.3}), turning, 0)[:3], 0.03, atol=0.002)
    disturb = NoiseByLevel(levels=[5.0]).begin(crane, np.random.default_rng(0))
    executed = np.array([disturb(2 * ACTION, step) for step in range(50)])
    assert np.abs(executed[:, :3]).max() == 1
    assert np.array_equal(executed[:, 3], np.full(50, 2))
    with pytest.raises(ValueError, match="crane has no 'turn' in its action: rail, gripper"):
        NoiseByLevel(shares={"turn": 0.3}).begin(crane, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [{"levels": []}, {"levels": [0.1, -0.1]}, {"low": 1.0, "high": 1.0}])
def test_noise_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="name levels of at least 0, and a range"):
        NoiseByLevel(**wrong)


def test_each_noise_is_a_protocols(crane: Embodiment):
    assert isinstance(Noise(), Disturbing)
    assert isinstance(NoiseByLevel(), Disturbing)
