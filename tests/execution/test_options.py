from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.execution import (
    AsTrained,
    Execution,
    OpenLoop,
    Player,
    RecedingHorizon,
    TemporalEnsemble,
    Timeline,
    two_ended,
    under_contract,
)
from vla_tune.schema import Contract, Embodiment


def chunk_at(tick: int, horizon: int) -> np.ndarray:
    """Action k of the chunk made at `tick`: (tick, k, tick + k)."""
    steps = np.arange(horizon)
    return np.stack([np.full(horizon, tick), steps, tick + steps], axis=1).astype(np.float32)


def play(execution: Execution, chunks: np.ndarray, body: Embodiment) -> tuple[np.ndarray, list[int]]:
    """The actions of len(chunks) ticks, and the ticks at which a chunk was asked for."""
    player = Player(execution.timeline(body))
    actions, asked = [], []
    for tick, chunk in enumerate(chunks):
        if player.needs_chunk:
            asked.append(tick)
            player.add(chunk)
        actions.append(player.next())
    return np.stack(actions), asked


@given(horizon=st.integers(1, 9), ticks=st.integers(1, 40), data=st.data())
def test_a_chunk_is_played_for_its_steps_and_then_another_is_asked_for(body, horizon, ticks, data):
    steps = data.draw(st.integers(1, horizon))
    chunks = np.stack([chunk_at(tick, horizon) for tick in range(ticks)])
    for execution, period in ((OpenLoop(), horizon), (RecedingHorizon(steps), steps)):
        actions, asked = play(execution, chunks, body)
        assert asked == list(range(0, ticks, period))
        np.testing.assert_array_equal(actions[:, 0], np.arange(ticks) // period * period)
        np.testing.assert_array_equal(actions[:, 1], np.arange(ticks) % period)


def naive_ensemble(chunks: np.ndarray, decay: float, newest: np.ndarray) -> np.ndarray:
    """ACT's Algorithm 2 with the whole table of predictions, as the paper writes it."""
    ticks, horizon, dimensions = chunks.shape
    table = np.full((ticks, ticks + horizon, dimensions), np.nan)
    for tick in range(ticks):
        table[tick, tick : tick + horizon] = chunks[tick]
    actions = []
    for tick in range(ticks):
        predictions = table[: tick + 1, tick]
        predictions = predictions[~np.isnan(predictions[:, 0])]
        weights = np.exp(-decay * np.arange(len(predictions)))
        mean = (predictions * weights[:, None]).sum(0) / weights.sum()
        actions.append(np.where(newest, predictions[-1], mean))
    return np.stack(actions)


@given(
    horizon=st.integers(1, 7),
    ticks=st.integers(1, 25),
    decay=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
def test_temporal_ensemble_equals_the_table_of_the_paper(body, horizon, ticks, decay, seed):
    chunks = np.random.default_rng(seed).normal(size=(ticks, horizon, 3))
    actions, asked = play(TemporalEnsemble(decay), chunks, body)
    assert asked == list(range(ticks))
    np.testing.assert_allclose(actions, naive_ensemble(chunks, decay, two_ended(body)), rtol=1e-12, atol=1e-12)


def test_the_oldest_prediction_weighs_most_and_the_gripper_is_the_newest(body):
    chunks = np.zeros((2, 2, 3))
    chunks[1] = 1.0
    actions, _ = play(TemporalEnsemble(decay=1.0), chunks, body)
    weight = np.exp(-1.0) / (1 + np.exp(-1.0))
    np.testing.assert_allclose(actions[1], [weight, weight, 1.0])


def test_gripper_dimensions_come_from_the_contract(tiny_contract: Contract):
    assert two_ended(tiny_contract.embodiment).tolist() == [False, False, False, True]


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps}"):
        RecedingHorizon(steps)


def test_more_steps_than_the_horizon_are_refused(body, tiny_contract: Contract):
    player = Player(RecedingHorizon(5).timeline(body))
    with pytest.raises(ValueError, match=r"steps=5.*choose 1 to 4"):
        player.add(chunk_at(0, 4))
    with pytest.raises(ValueError, match=r"steps=5.*choose 1 to 4"):
        under_contract(RecedingHorizon(5), tiny_contract)


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="decay="):
        TemporalEnsemble(decay)


@pytest.mark.parametrize(
    ("rotation", "representation", "fine"),
    [
        ("euler_xyz", "delta", True),
        ("rotation_vector", "delta", True),
        ("euler_xyz", "absolute", False),
        ("quaternion_xyzw", "delta", False),
        ("rotation_6d", "absolute", False),
    ],
)
def test_rotations_are_averaged_only_where_their_mean_is_one(turning, rotation, representation, fine):
    for execution in (TemporalEnsemble(), OpenLoop(blend=1)):
        if fine:
            execution.timeline(turning(rotation, representation))
        else:
            with pytest.raises(ValueError, match=rotation):
                execution.timeline(turning(rotation, representation))
    OpenLoop().timeline(turning(rotation, representation))


@pytest.mark.parametrize("execution", [OpenLoop(), RecedingHorizon(1), TemporalEnsemble()])
def test_a_player_refuses_to_be_misused(body, execution):
    player = Player(execution.timeline(body))
    assert isinstance(execution, Execution)
    assert isinstance(execution.timeline(body), Timeline)
    with pytest.raises(AssertionError):
        player.next()
    player.add(chunk_at(0, 2))
    with pytest.raises(AssertionError):
        player.add(chunk_at(0, 2))


def test_left_to_the_contract_it_plays_as_many_steps_as_that_says(tiny_contract: Contract):
    assert under_contract(AsTrained(), tiny_contract) == OpenLoop()  # all 4 of 4
    assert under_contract(AsTrained(), replace(tiny_contract, execute_steps=3)) == RecedingHorizon(3)
    assert under_contract(TemporalEnsemble(), tiny_contract) == TemporalEnsemble()


def as_a_robot_plays(execution: Execution, chunks: np.ndarray, body: Embodiment) -> np.ndarray:
    """The actions of len(chunks) ticks as a controller asks for them, of a policy that answers at once."""
    timeline = execution.timeline(body)
    actions = []
    for chunk in chunks:
        if timeline.wants(latency=0):
            timeline.add(chunk, elapsed=0)
        actions.append(timeline.next())
    return np.stack(actions)


def as_evaluations_played(chunks: np.ndarray, *, steps: int) -> np.ndarray:
    """Until versions of this package had one execution for both: the first steps of a chunk, then of the next."""
    return np.stack([chunks[tick // steps * steps, tick % steps] for tick in range(len(chunks))])


def as_evaluations_averaged(chunks: np.ndarray, *, decay: float, newest: np.ndarray) -> np.ndarray:
    """The same of ensembles: all that was predicted for a tick, oldest first."""
    horizon, actions = chunks.shape[1], []
    for tick in range(len(chunks)):
        predictions = np.stack([chunks[made, tick - made] for made in range(max(0, tick - horizon + 1), tick + 1)])
        weights = np.exp(-decay * np.arange(len(predictions)))
        mean = weights @ predictions / weights.sum()
        actions.append(np.where(newest, predictions[-1], mean).astype(predictions.dtype))
    return np.stack(actions)


@given(horizon=st.integers(1, 9), ticks=st.integers(1, 40), decay=st.floats(0, 3), seed=st.integers(0, 1000), data=st.data())
def test_without_latency_a_robot_plays_bit_for_bit_what_evaluations_played(body, horizon, ticks, decay, seed, data):
    steps = data.draw(st.integers(1, horizon))
    chunks = np.random.default_rng(seed).normal(size=(ticks, horizon, 3)).astype(np.float32)
    expected = {
        OpenLoop(): as_evaluations_played(chunks, steps=horizon),
        OpenLoop(blend=3): as_evaluations_played(chunks, steps=horizon),  # nothing is left of the old chunk
        RecedingHorizon(steps): as_evaluations_played(chunks, steps=steps),
        TemporalEnsemble(decay): as_evaluations_averaged(chunks, decay=decay, newest=two_ended(body)),
    }
    for execution, actions in expected.items():
        assert as_a_robot_plays(execution, chunks, body).tobytes() == actions.tobytes()
        assert play(execution, chunks, body)[0].tobytes() == actions.tobytes()


def test_an_evaluation_can_blend_as_a_robot_does(body):
    chunks = np.stack([np.full((4, 3), tick, np.float32) for tick in range(4)])
    assert play(RecedingHorizon(2, blend=1), chunks, body)[0][:, 0].tolist() == [0, 0, 1, 2]
    assert play(RecedingHorizon(2), chunks, body)[0][:, 0].tolist() == [0, 0, 2, 2]
