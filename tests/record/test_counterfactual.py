"""Counterfactual play: the labels are what the expert would do, and the behaviour does not notice."""

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from vla_tune.data.chunks import RecordedChunks
from vla_tune.data.dataset import Demonstrations
from vla_tune.record import Play, Storage, World, counterfactual_frames, expert_chunk, record_counterfactual
from vla_tune.record.tabletop import TabletopWorld
from vla_tune.schema import Contract


def frames(count: int, *, seed: int = 0, worker: int = 0, play: Play | None = None) -> list[dict]:
    return list(islice(counterfactual_frames(TabletopWorld(), horizon=4, seed=seed, worker=worker, play=play), count))


def test_a_frame_is_what_the_coordinator_expects():
    assert isinstance(TabletopWorld(), World)
    for frame in frames(20):
        assert frame["images"]["front"].shape == (64, 64, 3)
        assert frame["images"]["front"].dtype == np.uint8
        assert frame["state"].shape == (4,)
        assert frame["action_chunk"].shape == (4, 4)
        assert frame["action_chunk"].dtype == np.float32
        assert np.array_equal(frame["action"], frame["action_chunk"][0])
        assert frame["target_position"].shape == (2,)
        assert np.abs(frame["target_position"]).max() < 0.3
        assert any(colour in frame["instruction"] for colour in ("red", "green", "blue", "yellow"))


def test_frames_follow_from_seed_and_worker():
    first, second = frames(30), frames(30)
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one["images"]["front"], two["images"]["front"])
        assert np.array_equal(one["action_chunk"], two["action_chunk"])
        assert one["instruction"] == two["instruction"]
    for other in (frames(30, worker=1), frames(30, seed=1)):
        assert any(not np.array_equal(one["state"], two["state"]) for one, two in zip(first, other, strict=True))


def test_a_chunk_is_the_experts_closed_loop_and_the_world_goes_back():
    world = TabletopWorld()
    rng = np.random.default_rng(3)
    world.scatter(rng)
    goal = world.draw_goal(rng)
    assert goal is not None
    before = world.snapshot()
    chunk = expert_chunk(world, goal, horizon=5)
    assert np.array_equal(world.snapshot().physics, before.physics)
    for action in chunk:
        assert np.array_equal(world.expert(goal), action)
        world.step(action)


def test_labels_do_not_disturb_the_behaviour():
    """Without noise the behaviour does what its own goal's labels foretell, although each label simulated three steps ahead."""
    quiet = Play(deviation_m=0.0, burst=0.0, switch=0.0, redraw=0.0, keep=1.0, steps=6)
    source = counterfactual_frames(TabletopWorld(("push_left", "push_right")), horizon=4, seed=0, play=quiet)
    samples = list(islice(source, 30))
    pairs = [(one, two) for one, two in pairwise(samples) if one["episode"] == two["episode"]]
    assert len(pairs) == 25
    assert all(np.array_equal(one["action_chunk"][1:], two["action_chunk"][:3]) for one, two in pairs)


def test_words_decide_what_happens_in_the_same_picture():
    """From one state, goals about different cubes have different chunks, but for a tool so far off that all are on one side."""
    world, rng = TabletopWorld(("touch",)), np.random.default_rng(0)
    distinct, total = 0, 0
    for _ in range(20):
        world.scatter(rng)
        goals = {goal for goal in (world.draw_goal(rng) for _ in range(20)) if goal is not None}
        distinct += len({expert_chunk(world, goal, horizon=4).tobytes() for goal in goals})
        total += len(goals)
    assert distinct > 0.8 * total


def test_only_the_given_tasks_are_asked_for():
    source = counterfactual_frames(TabletopWorld(("touch",)), horizon=2, seed=0)
    assert all(frame["instruction"].startswith(("touch", "reach")) for frame in islice(source, 30))
    with pytest.raises(ValueError, match="unknown task 'juggle'"):
        TabletopWorld(("juggle",))


def test_a_recording_holds_the_frames(tiny_contract: Contract, tmp_path: Path):
    body = tiny_contract.embodiment
    arguments = {"embodiment": body, "horizon": 4, "frames": 30, "seed": 0, "storage": Storage()}
    folder = record_counterfactual(tmp_path / "play", world=TabletopWorld(), **arguments)
    dataset = Demonstrations(folder, embodiment=body, chunks=RecordedChunks(4))
    assert len(dataset) >= 30
    for sample, frame in zip((dataset[index] for index in range(len(dataset))), frames(len(dataset)), strict=True):
        assert np.array_equal(sample["actions"], frame["action_chunk"])
        assert np.array_equal(sample["observation.state"], frame["state"])
        assert np.array_equal(sample[body.cameras[0].key], frame["images"]["front"])
        assert sample["instruction"] == frame["instruction"]
    assert record_counterfactual(folder, world=TabletopWorld(), **arguments) == folder
    with pytest.raises(ValueError, match="seed: 0 there, 1 asked for"):
        record_counterfactual(folder, world=TabletopWorld(), **(arguments | {"seed": 1}))
