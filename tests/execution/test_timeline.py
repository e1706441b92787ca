"""Chunks on a timeline: aligned by what was played, blended, averaged."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_tune.execution import AsTrained, OpenLoop, RecedingHorizon, TemporalEnsemble, under_contract


def chunk(start: float, steps: int = 8) -> np.ndarray:
    """Joint 0 says which tick an action is for."""
    rows = np.zeros((steps, 3), np.float32)
    rows[:, 0] = start + np.arange(steps)
    rows[:, 2] = start > 0
    return rows


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=20),
    st.sampled_from(["open", "receding", "ensemble"]),
)
def test_every_action_is_played_at_the_tick_it_is_for(body, pauses, kind):
    """Chunks are asked for at any moment and come any number of played ticks later."""
    timeline = {"open": OpenLoop(blend=2), "receding": RecedingHorizon(steps=3, blend=2), "ensemble": TemporalEnsemble(decay=0.1)}[
        kind
    ].timeline(body)
    played = 0
    for late, plays in pauses:
        asked = played
        for _ in range(late):
            action = timeline.next()
            if action is None:
                break
            assert action[0] == pytest.approx(played)
            played += 1
        timeline.add(chunk(asked), elapsed=played - asked)
        for _ in range(plays):
            action = timeline.next()
            if action is not None:
                assert action[0] == pytest.approx(played)
                played += 1


def test_an_old_chunk_gives_way_over_the_overlap_but_a_gripper_changes_at_once(body):
    timeline = OpenLoop(blend=3).timeline(body)
    timeline.add(np.zeros((6, 3), np.float32), elapsed=0)
    timeline.add(np.ones((6, 3), np.float32), elapsed=2)
    played = [action for _ in range(4) if (action := timeline.next()) is not None]
    assert [round(float(action[0]), 6) for action in played] == [0.25, 0.5, 0.75, 1.0]
    assert [float(action[2]) for action in played] == [1.0] * 4
    assert timeline.left == 0


def test_it_looks_again_early_enough_for_the_latency(body):
    timeline = OpenLoop(blend=0).timeline(body)
    assert timeline.wants(latency=0)
    timeline.add(chunk(0), elapsed=0)
    asked = []
    for _ in range(8):
        asked.append(timeline.wants(latency=3))
        timeline.next()
    assert asked == [False] * 5 + [True] * 3
    receding = RecedingHorizon(steps=4, blend=0).timeline(body)
    receding.add(chunk(0), elapsed=1)
    asked = []
    for _ in range(4):
        asked.append(receding.wants(latency=0))
        receding.next()
    assert asked == [False, False, False, True]


def test_a_chunk_that_comes_when_all_of_it_is_past_plays_nothing(body):
    for execution in (OpenLoop(blend=2), TemporalEnsemble(decay=0.0)):
        timeline = execution.timeline(body)
        timeline.add(chunk(0), elapsed=9)
        assert timeline.next() is None


def test_impossible_choices_are_named(body):
    with pytest.raises(ValueError, match="steps=0: at least 1"):
        RecedingHorizon(steps=0, blend=0)
    with pytest.raises(ValueError, match="blend=-1: must be at least 0"):
        OpenLoop(blend=-1).timeline(body)


def test_left_to_the_contract_it_looks_again_when_that_says(tiny_contract):
    assert under_contract(AsTrained(blend=1), tiny_contract) == OpenLoop(blend=1)
    assert under_contract(AsTrained(blend=2), replace(tiny_contract, execute_steps=1)) == RecedingHorizon(steps=1, blend=2)
    assert under_contract(TemporalEnsemble(decay=0.1), tiny_contract) == TemporalEnsemble(decay=0.1)
