from typing import Any

import numpy as np
import pytest

from vla_tune.data import build_pipeline
from vla_tune.data.memory import FramesInMemory
from vla_tune.data.transforms import Samples, Transformed
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Contract, Embodiment
from vla_tune.tokens import IGNORED

REACH = (0.2, 0.1)


def play(seed: int, *, episodes: int, length: int = 3) -> list[dict[str, Any]]:
    """What `counterfactual_frames` yields, with random numbers."""
    rng = np.random.default_rng(seed)
    return [
        {
            "images": {"front": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)},
            "state": rng.normal(size=4).astype(np.float32),
            "action_chunk": rng.normal(size=(4, 4)).astype(np.float32),
            "instruction": f"lift the {'red' if number % 2 else 'blue'} block",
            "target_position": rng.uniform(-0.1, 0.1, 2).astype(np.float32),
            "episode": number // length,
        }
        for number in range(episodes * length)
    ]


def gathered(body: Embodiment, seed: int, *, episodes: int) -> FramesInMemory:
    return FramesInMemory.gather(iter(play(seed, episodes=episodes)), body, reach=REACH)


def test_a_sample_is_the_frame(body: Embodiment):
    rows, frames = play(0, episodes=2), gathered(body, 0, episodes=2)
    assert isinstance(frames, Samples)
    assert len(frames) == 6
    for number, row in enumerate(rows):
        sample = frames[number]
        assert set(sample) == {body.cameras[0].key, body.state_key, "actions", "action_mask", "instruction", "location", "index"}
        assert (sample[body.cameras[0].key] == row["images"]["front"]).all()
        assert (sample[body.state_key] == row["state"]).all()
        assert (sample["actions"] == row["action_chunk"]).all()
        assert sample["action_mask"].shape == (4, 4)
        assert sample["action_mask"].all()
        assert sample["instruction"] == row["instruction"]
        assert sample["location"] == pytest.approx(row["target_position"] / REACH)
        assert sample["index"].tolist() == [number // 3, number]


def test_joined_parts_keep_their_order_and_their_episodes_apart(body: Embodiment):
    parts = [gathered(body, seed, episodes=count) for seed, count in ((0, 2), (1, 3), (2, 1))]
    whole = FramesInMemory.joined(parts)
    assert len(whole) == 18
    samples = [part[row] for part in parts for row in range(len(part))]
    for number, sample in enumerate(samples):
        for name in set(sample) - {"index"}:
            assert np.array_equal(whole[number][name], sample[name])
    assert whole.index[:, 0].tolist() == [episode for episode in range(6) for _ in range(3)]
    assert len(np.unique(whole.index, axis=0)) == 18
    assert whole.statistics("play").num_trajectories == 6
    assert FramesInMemory.joined([whole]).content_hash() == whole.content_hash()


def test_statistics_are_those_of_every_step_of_every_chunk(body: Embodiment):
    frames = gathered(body, 0, episodes=4)
    statistics = frames.statistics("play")
    actions = frames.actions.reshape(-1, 4).astype(np.float64)
    assert statistics.dataset == "play"
    assert (statistics.num_transitions, statistics.num_trajectories) == (12, 4)
    assert statistics.action.mean == pytest.approx(actions.mean(axis=0))
    assert statistics.action.q99 == pytest.approx(np.quantile(actions, 0.99, axis=0))
    assert statistics.state.max == pytest.approx(frames.states.max(axis=0))
    assert statistics.action.mask == (True, True, True, False)


def test_a_number_that_is_none_is_refused(body: Embodiment):
    frames = gathered(body, 0, episodes=1)
    frames.actions[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        frames.statistics("play")


def test_the_hash_knows_pictures_words_and_numbers(body: Embodiment):
    own = gathered(body, 0, episodes=1)
    assert gathered(body, 0, episodes=1).content_hash() == own.content_hash()
    assert gathered(body, 1, episodes=1).content_hash() != own.content_hash()
    changed = play(0, episodes=1)
    changed[2]["instruction"] = "touch the red block"
    hashes = {own.content_hash(), FramesInMemory.gather(changed, body, reach=REACH).content_hash()}
    for name in ("states", "actions", "locations"):
        other = gathered(body, 0, episodes=1)
        getattr(other, name).flat[0] += 1
        hashes.add(other.content_hash())
    other = gathered(body, 0, episodes=1)
    other.images[body.cameras[0].key][0, 0, 0, 0] ^= 1
    assert len(hashes | {other.content_hash()}) == 6


def test_frames_of_play_are_training_samples(body: Embodiment, tiny_contract: Contract, tiny_tokenizer):
    frames = gathered(body, 0, episodes=1)
    sample = Transformed(frames, build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)))[1]
    assert sample["pixel_values"].shape == (1, 3, 64, 64)
    assert (sample["labels"] != IGNORED).sum() == 16
