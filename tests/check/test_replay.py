"""Recorded actions succeed again where data and environment mean the same by them, and only there."""

from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  (registers the environment)
from vla_tune.check.replay import replay
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.starts import STARTS_FILE, read_starts, write_starts
from vla_tune.record import STILL, Noise, Storage, record_demonstrations
from vla_tune.record.tabletop import tabletop_expert

make_env = partial(gymnasium.make, "vla_tune/Tabletop-v0", task="lift", disable_env_checker=True)


def recorded(folder: Path, body, noise: Noise) -> Demonstrations:
    options = {"expert": tabletop_expert, "embodiment": body, "episodes": 3, "seed": 3, "noise": noise, "storage": Storage()}
    record_demonstrations(folder, make_env=make_env, **options)
    return Demonstrations(folder, embodiment=body, chunks=ChunksByTimestamp(1))


@pytest.fixture(scope="module")
def lifts(tiny_contract, tmp_path_factory) -> Demonstrations:
    return recorded(tmp_path_factory.mktemp("lifts") / "still", tiny_contract.embodiment, STILL)


class Changed(gymnasium.ActionWrapper):
    """Means something else by an action."""

    def __init__(self, env: gymnasium.Env, factors: list[float]) -> None:
        super().__init__(env)
        self.factors = np.array(factors, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        flipped = np.where(self.factors < 0, 1 - action, action * self.factors)
        return flipped.astype(np.float32)


class Elsewhere(gymnasium.Wrapper):
    """Begins as another seed would have it."""

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=None if seed is None else seed + 1, options=options)


def test_what_was_recorded_succeeds_again(lifts):
    assert all(start.exact for start in read_starts(lifts.root))
    finding = replay(lifts, make_env, count=5)
    assert finding.passed, finding
    assert finding.said.startswith("3 of 3 recorded episodes succeed")


@pytest.mark.parametrize("factors", [[2.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, -1.0], [1.0, 0.0, 1.0, 1.0]])
def test_another_meaning_of_an_action_is_told(lifts, factors):
    finding = replay(lifts, lambda _: Changed(make_env(), factors), count=2)
    assert not finding.passed
    assert "units, control mode, rate or the gripper's sign" in finding.said


def test_another_success_is_told(lifts):
    class Stricter(gymnasium.Wrapper):
        def step(self, action):
            return (*self.env.step(action)[:4], {"success": False})

    finding = replay(lifts, lambda _: Stricter(make_env()), count=1)
    assert not finding.passed
    assert "call other things a success" in finding.said
    assert replay(lifts, make_env, count=0).said == "not tried: none was asked for"


def test_another_start_is_told(lifts):
    finding = replay(lifts, lambda _: Elsewhere(make_env()), count=1)
    assert not finding.passed
    assert "elsewhere: another environment" in finding.said


def test_episodes_with_noise_are_not_replayed(tiny_contract, tmp_path):
    noisy = recorded(tmp_path / "noisy", tiny_contract.embodiment, Noise(share=1.0))
    assert not any(start.exact for start in read_starts(noisy.root))
    finding = replay(noisy, make_env, count=5)
    assert finding.passed
    assert finding.said.startswith("not tried: there is no held-out episode whose actions were executed without noise")


def test_data_of_somebody_else_is_not_replayed(lifts):
    starts = read_starts(lifts.root)
    (lifts.root / STARTS_FILE).unlink()
    finding = replay(lifts, make_env, count=5)
    write_starts(lifts.root, starts)
    assert finding.passed
    assert "starts.json is missing" in finding.said


def test_only_episodes_in_use_are_replayed(lifts):
    assert replay(lifts.select([1]), make_env, count=5).said.startswith("1 of 1")
