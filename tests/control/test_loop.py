"""The controller: whatever fails, the robot is held, and what is sent stays inside the limits."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from vla_tune.control.loop import Inference
from vla_tune.control.parts import ticks_per_action
from vla_tune.control.safety import ActionRange
from vla_tune.control.setpoints import SetPoints
from vla_tune.control.simulated import Dropped, FrozenCamera, NotANumber, spoilt
from vla_tune.control.state import Rules, State
from vla_tune.execution import OpenLoop, RecedingHorizon, TemporalEnsemble

HZ = 50.0


class Policy:
    """Goes on by `step` per tick from where the arm is; answers at once, or fails as told."""

    def __init__(self, step: float = 0.002, fail=None) -> None:
        self.step, self.fail, self.asked = step, fail, 0

    def act(self, observations):
        self.asked += 1
        chunk = np.zeros((8, 3), np.float32)
        chunk[:, 0] = observations[0].state[0] + self.step * np.arange(1, 9)
        chunk[:, 2] = 1.0
        return (self.fail(self.asked, chunk) if self.fail else chunk)[None]

    def reset(self) -> None: ...


def steps(arm) -> np.ndarray:
    return np.abs(np.diff(np.array([np.zeros(3), *arm.sent])[:, :2], axis=0)).max(initial=0)


def test_it_arms_then_runs_what_the_policy_says(arm, controlled):
    controller, log = controlled(Policy())
    controller.run(seconds=1.0)
    states = [tick.state for tick in log.ticks]
    assert states[0] == State.ARMED
    assert set(states[3:]) == {State.RUN}
    assert arm.position[0] == pytest.approx(0.002 * len(arm.sent), rel=0.1)
    assert arm.position[2] == 1.0
    assert not any(tick.clamped.any() for tick in log.ticks[15:])  # once it has the speed that is asked for
    assert controller.counts.ticks == HZ
    sent = np.array([tick.sent for tick in log.ticks if tick.state == State.RUN])
    assert np.allclose(sent, np.array(arm.sent)[: len(sent)])


@pytest.mark.parametrize("execution", [OpenLoop(blend=2), RecedingHorizon(steps=3, blend=2), TemporalEnsemble(decay=0.01)])
def test_every_execution_moves_without_a_gap(arm, controlled, execution):
    controller, _ = controlled(Policy(), execution=execution)
    controller.run(seconds=1.0)
    assert controller.counts.starved <= 2
    assert arm.position[0] > 0.05


def test_the_button_stops_it_at_rest_and_nothing_moves_it_again(arm, controlled, button):
    controller, log = controlled(Policy(step=0.03), stop=button)
    controller.run(seconds=2.0)
    assert controller.state is State.STOP
    assert controller.reason == "the button"
    assert arm.stopped
    assert steps(arm) <= 0.05
    speeds = np.abs(np.diff(np.array(arm.sent)[-3:, 0])) * HZ
    assert speeds[-1] < 0.2  # it was braked, not cut off
    assert log.ticks[-1].state == State.STOP


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda asked, chunk: chunk * np.nan, "chunks in a row were refused; the last: it holds NaN"),
        (lambda asked, chunk: chunk + 100, "dimension 0 is 100, in the training data -2 to 2"),
        (lambda asked, chunk: chunk[:, :2], "it has shape [8, 2], not [T 3]"),
    ],
)
def test_refused_chunks_are_counted_and_stop_it(arm, controlled, fail, message):
    controller, _ = controlled(Policy(fail=fail))
    controller.run(seconds=2.0)
    assert controller.state is State.STOP
    assert controller.counts.rejected == 3
    assert message in controller.reason
    assert not arm.sent
    assert arm.stopped


def test_one_refused_chunk_is_survived(arm, controlled):
    controller, _ = controlled(Policy(fail=lambda asked, chunk: chunk * np.nan if asked == 3 else chunk))
    controller.run(seconds=1.0)
    assert controller.counts.rejected == 1
    assert controller.state is State.RUN


def test_a_lost_server_holds_then_goes_on_from_what_is_seen_then(arm, controlled):
    def fail(asked, chunk):
        if 3 <= asked <= 6:
            raise ConnectionError("the server is gone")
        return chunk

    controller, log = controlled(Policy(step=0.01, fail=fail))
    controller.run(seconds=2.0)
    states = [tick.state for tick in log.ticks]
    assert State.HOLD in states
    assert states[-1] == State.RUN
    assert controller.counts.failures == 4
    assert steps(arm) <= 0.05
    assert "ConnectionError: the server is gone" in {tick.note for tick in log.ticks}


def test_a_server_that_stays_lost_stops_it_in_the_promised_time(arm, controlled):
    def fail(asked, chunk):
        if asked > 2:
            raise ConnectionError("the server is gone")
        return chunk

    controller, log = controlled(Policy(fail=fail))
    controller.run(seconds=10.0)
    assert controller.state is State.STOP
    assert "held for 1 s" in controller.reason
    held = [tick.time for tick in log.ticks if tick.state == State.HOLD]
    assert held[-1] - held[0] == pytest.approx(1.0, abs=0.1)


def test_a_policy_that_never_answers_keeps_nothing(arm, controlled):
    controller, _ = controlled(Policy(fail=lambda asked, chunk: arm.clock.takes(float("inf"))))
    controller.run(seconds=10.0)
    assert controller.state is State.STOP
    assert not arm.sent


def test_the_policys_thread_answers_once_and_keeps_what_failed(arm):
    """A question, its answer, another one; an error is an answer too."""
    came = threading.Event()

    def fail(asked, chunk):
        came.set()
        if asked == 2:
            raise ConnectionError("the server is gone")
        return chunk

    inference = Inference(Policy(fail=fail), clock=arm.clock.now)
    computed = []
    for played in (3, 4):
        inference.ask(arm.observe(), played=played)
        assert came.wait(30)
        came.clear()
        while (answer := inference.take()) is None:
            assert inference.busy
        computed.append(answer)
        assert not inference.busy
        assert inference.take() is None
    inference.close()
    assert [answer.played for answer in computed] == [3, 4]
    assert computed[0].chunk is not None
    assert computed[1].chunk is None
    assert str(computed[1].error) == "the server is gone"


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (NotANumber(share=1.0, after=10), "the observed state is"),
        (Dropped(share=1.0, after=10), "s old"),
        (FrozenCamera(after=10), "the camera front shows the same picture for 1 s of motion"),
    ],
)
def test_sensors_that_fail_hold_it(arm, controlled, fault, note):
    controller, log = controlled(Policy(), robot=spoilt(arm, [fault]))
    controller.run(seconds=4.0)
    assert controller.state is State.STOP
    assert any(note in tick.note for tick in log.ticks)
    assert note in controller.reason
    assert steps(arm) <= 0.05


class Shifted:
    """The sensors' time jumps after some ticks."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.ticks = seconds, 0

    def __call__(self, seen):
        self.ticks += 1
        return replace(seen, time=seen.time + (self.seconds if self.ticks > 10 else 0.0))


@pytest.mark.parametrize(
    ("seconds", "note"),
    [(10.0, "10.00 s ahead of the clock"), (0.4, "0.40 s ahead"), (-10.0, "10.00 s old"), (np.nan, "nan s old"), (np.inf, "ahead")],
)
def test_a_sensors_clock_that_jumps_holds_it(arm, controlled, seconds, note):
    controller, log = controlled(Policy(), robot=spoilt(arm, [Shifted(seconds)]))
    controller.run(seconds=4.0)
    assert controller.state is State.STOP
    assert note in controller.reason
    assert sum(tick.state is State.RUN for tick in log.ticks) <= 10


def test_an_action_that_is_not_finite_stops_it_and_is_not_sent(arm, controlled, monkeypatch):
    action, asked = SetPoints.action, []

    def broken(self, *given, **named):
        asked.append(1)
        return action(self, *given, **named) * (np.nan if len(asked) > 5 else 1)

    monkeypatch.setattr(SetPoints, "action", broken)
    controller, _ = controlled(Policy())
    controller.run(seconds=1.0)
    assert controller.state is State.STOP
    assert "an action is not finite" in controller.reason
    assert len(arm.sent) == 5
    assert np.isfinite(arm.sent).all()


def test_a_dropped_frame_now_and_then_is_survived(arm, controlled):
    controller, _ = controlled(Policy(), robot=spoilt(arm, [Dropped(share=0.3, after=1), NotANumber(share=0.02, after=1)]))
    controller.run(seconds=2.0)
    assert controller.state in (State.RUN, State.HOLD)
    assert steps(arm) <= 0.05


def test_a_robot_that_fails_is_stopped_and_its_error_is_told(arm, controlled):
    observe = arm.observe

    def failing():
        if arm.pictures > 10:
            raise ConnectionError("the bus is gone")
        return observe()

    arm.observe = failing
    controller, log = controlled(Policy())
    with pytest.raises(ConnectionError, match="the bus is gone"):
        controller.run(seconds=1.0)
    assert arm.stopped
    assert len(log.ticks) == 10  # what was logged is kept


def test_a_loop_that_hangs_is_stopped_from_outside(arm, controlled):
    observe, stop, stopped = arm.observe, arm.stop, threading.Event()

    def hanging():
        if arm.pictures == 10:
            arm.clock.time += 0.5
            assert stopped.wait(30), "nobody stopped it"
        return observe()

    def noted() -> None:
        stop()
        stopped.set()

    arm.observe, arm.stop = hanging, noted
    rules = Rules(stale=1.0, frozen=1.0, patience=1.0, rejections=3, watchdog=0.1)
    arm.send = lambda action: action
    controller, _ = controlled(Policy(), rules=rules)
    controller.run(seconds=1.0)
    assert arm.stopped
    assert "silent for 0.5" in controller.reason


def test_a_faster_robot_gets_the_way_between(body, arm, controlled):
    arm.hz = 4 * HZ
    ramp = np.stack([np.linspace(0.008, 0.8, 100), np.zeros(100), np.ones(100)], axis=1).astype(np.float32)
    controller, log = controlled(Policy(fail=lambda asked, chunk: ramp), execution=OpenLoop(blend=0))
    controller.run(seconds=0.5)
    moved = np.diff(np.array(arm.sent)[40:90, 0])
    assert np.allclose(moved, 0.002, atol=4e-4)  # 0.4 rad/s at 200 Hz, catching up with what the start cost
    raw = [tick for tick in log.ticks if np.isfinite(tick.raw).all()]
    assert len(raw) == pytest.approx(0.5 * HZ, abs=3)
    with pytest.raises(ValueError, match="robot ticks at 70 Hz, the policy acts at 50 Hz"):
        ticks_per_action(70.0, 50.0)


def test_the_margin_lets_a_decoded_value_a_little_outside_pass(extents):
    allowed = ActionRange(extents, margin=0.1)
    assert allowed.problem(np.full((4, 3), 1.05, np.float32)) is None
    assert "dimension 2 is 1.2" in str(allowed.problem(np.full((4, 3), 1.2, np.float32)))


@pytest.mark.parametrize(("value", "passes"), [(1 / 64, True), (-1 / 64, True), (0.02, False), (-1.0, False)])
def test_a_dimension_that_never_moved_may_be_off_by_a_code(extents, value, passes):
    """And no further: a base that never drove in the data does not drive."""
    still = replace(extents, low=np.array([-2.0, 0.0, 0.0]), high=np.array([2.0, 0.0, 1.0]))
    chunk = np.tile(np.array([0.5, value, 0.0], np.float32), (4, 1))
    assert (ActionRange(still, margin=0.25).problem(chunk) is None) == passes


@pytest.mark.parametrize(("value", "passes"), [(0.2, True), (-0.2, True), (0.5, False), (1.0, False), (-0.3, False)])
def test_a_gripper_that_never_closed_stays_on_its_side(extents, value, passes):
    """Its slack is a share of the way from engaged to released."""
    open_only = replace(extents, high=np.array([2.0, 1.0, 0.0]))
    chunk = np.tile(np.array([0.5, 0.0, value], np.float32), (4, 1))
    assert (ActionRange(open_only, margin=0.25).problem(chunk) is None) == passes


def test_rules_are_above_zero():
    with pytest.raises(ValueError, match=r"rules.stale=0.0: must be above 0"):
        Rules(stale=0.0, frozen=1.0, patience=1.0, rejections=3, watchdog=0.2)
