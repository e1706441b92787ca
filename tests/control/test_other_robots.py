"""Simulated robots that are not the tabletop: unitless deltas, absolute and relative joints, no state, known by their contract."""

from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from vla_tune.control.emergency import AnyOf
from vla_tune.control.limits import Limits, LimitsOfData
from vla_tune.control.log import InMemory
from vla_tune.control.loop import Controller
from vla_tune.control.parts import Parts
from vla_tune.control.safety import ActionRange, Safety
from vla_tune.control.setpoints import FromMeasured, SetPoints, measured_by
from vla_tune.control.simulated import Delayed, Dropped, NotANumber, SimulatedRobot, spoilt
from vla_tune.control.state import Rules, State
from vla_tune.execution import OpenLoop, RecedingHorizon
from vla_tune.extents import Extents
from vla_tune.schema import Camera, Embodiment, Gripper, Group

MARGIN = 0.25
_NEVER = AnyOf([])


class Simulator(gymnasium.Env):
    """Does what it is told at once: joints are where they are sent, deltas add a hundredth of their number. Nothing succeeds."""

    def __init__(self, body: Embodiment) -> None:
        self.body, self.action_space = body, spaces.Box(-np.inf, np.inf, (body.action_dimension,), np.float32)
        self.received: list[np.ndarray] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.full(self.body.state_dimension, 0.125, np.float32)
        return self._see(), {"success": False}

    def step(self, action):
        assert self.action_space.contains(action), f"the environment was sent {action!r}"
        self.received.append(action)
        absolute = self.body.action[0].representation != "delta"
        moved = action if absolute else self.state[: len(action)] + 0.01 * action[: len(self.state)]
        self.state[: len(moved)] = moved[: len(self.state)]
        return self._see(), 0.0, False, False, {}

    def _see(self):
        picture = np.full((4, 4, 3), len(self.received) % 256, np.uint8)
        return {"images": {"front": picture}, "state": self.state.copy(), "instruction": "go"}


def _body(name: str, hz: float, state: list[Group], action: list[Group]) -> Embodiment:
    camera = Camera(role="front", key="observation.images.front", height=4, width=4)
    keys = {"state_key": "observation.state", "action_key": "action"}
    return Embodiment(name=name, control_hz=float(hz), cameras=(camera,), state=tuple(state), action=tuple(action), **keys)


@pytest.fixture(scope="session")
def bodies(group_of) -> dict[str, Embodiment]:
    pure = {"unit": "1", "representation": "delta"}
    hand, fingers = Gripper(engaged=1.0, released=-1.0), Gripper(engaged=0.0, released=0.04)
    closing = group_of("gripper", 1, unit="1", normalization="none", gripper=hand)
    turn = group_of("turn", 3, rotation="rotation_vector", **pure)
    metaworld = _body("metaworld", 20, [group_of("hand", 3, unit="m")], [group_of("hand", 3, **pure), closing])
    libero = _body(
        "libero",
        20,
        [group_of("position", 3, unit="m"), group_of("turn", 3, rotation="rotation_vector"), group_of("fingers", 2, unit="m")],
        [group_of("position", 3, **pure), turn, closing],
    )
    arms = [
        group_of("left_arm", 6),
        group_of("left_gripper", 1, unit="1"),
        group_of("right_arm", 6),
        group_of("right_gripper", 1, unit="1"),
    ]
    relative = [replace(group, representation="relative_to_first") for group in arms]
    degrees = [replace(group, unit="deg") for group in arms]
    tight = group_of("fingers", 1, unit="m", gripper=fingers)
    return {
        "metaworld": metaworld,
        "libero": libero,
        "pinching": _body("pinching", 20, [group_of("hand", 3, unit="m"), tight], list(metaworld.action)),
        "aloha": _body("aloha", 50, arms, arms),
        "relative": _body("relative", 50, arms, relative),
        "degrees": _body("degrees", 50, degrees, degrees),
        "without a state": _body("without a state", 50, [], arms),
        "motions without a state": _body("motions without a state", 20, [], list(libero.action)),
    }


NAMES = ["metaworld", "libero", "pinching", "aloha", "relative", "degrees", "without a state", "motions without a state"]


def reach_of(body: Embodiment) -> Extents:
    """Of the data: joints from -1 to 1 rad, deltas from -1 to 1, grippers from end to end."""
    ends = [0.0 if group.gripper is None else 2.0 for group in body.action for _ in range(group.dimension)]
    far = np.array([60.0 if unit == "deg" else 1.0 for unit in body.action_units])
    return Extents(low=-far, high=far, apart=np.array(ends), code=np.full(len(ends), 1 / 128))


@dataclass(eq=False)
class Wild:
    """Any action of the data's range after any other."""

    reach: Extents
    two_ended: np.ndarray
    fails_after: int = 10**6
    chunks: list[np.ndarray] = field(default_factory=list)

    def act(self, observations):
        if len(self.chunks) >= self.fails_after:
            raise ConnectionError("the server is gone")
        random = np.random.default_rng(len(self.chunks))
        chunk = random.uniform(self.reach.low, self.reach.high, (8, len(self.reach.low)))
        chunk[4:] = np.sign(chunk[4:]) * self.reach.high
        chunk = np.where(self.two_ended, np.sign(chunk), chunk).astype(np.float32)
        self.chunks.append(chunk)
        return chunk[None]

    def reset(self) -> None: ...


@dataclass(eq=False)
class Driven:
    """A simulated robot with its controller."""

    env: Simulator
    policy: Wild
    controller: Controller
    log: InMemory


@pytest.fixture
def driven(clock):
    """Makes one, of which nothing but the body is known."""

    def make(body: Embodiment, *, limits=None, faults=(), stop=_NEVER, fails_after=10**6, **changed) -> Driven:
        env = Simulator(body)
        robot = SimulatedRobot(lambda task: env, "go", body, clock=clock.now)
        robot.connect()
        robot.start(0)
        two_ended = np.array([group.gripper is not None for group in body.action for _ in range(group.dimension)])
        reach = reach_of(body)
        policy, log = Wild(reach, two_ended, fails_after), InMemory()
        parts = {
            "robot": spoilt(robot, faults),
            "policy": policy,
            "actions": ActionRange(reach, margin=MARGIN),
            "set_points": SetPoints(body, measured_by(body), FromMeasured()),
            "safety": Safety(LimitsOfData(MARGIN, limits or {}).axes(body, reach), hz=body.control_hz),
            "execution": OpenLoop(blend=0),
            "stop": stop,
            "rules": Rules(stale=0.5, frozen=10.0, patience=1.0, rejections=3, watchdog=30.0),
            "log": log,
            "clock": clock,
        }
        return Driven(env, policy, Controller(Parts(**(parts | changed))), log)

    return make


@pytest.mark.parametrize("name", NAMES)
def test_what_the_policy_says_arrives_and_nothing_is_clamped(bodies, driven, name):
    robot = driven(bodies[name])
    robot.controller.run(seconds=2.0)
    played = [tick.raw for tick in robot.log.ticks if tick.state == State.RUN]
    sent = np.stack([tick.sent for tick in robot.log.ticks if tick.state == State.RUN])
    assert len(played) > 30
    assert np.allclose(sent, np.stack(played), atol=2e-3 * reach_of(bodies[name]).high.max())
    assert robot.controller.counts.clamped == robot.controller.counts.rejected == 0
    arrived = np.stack(robot.env.received)
    assert all((arrived == action.astype(np.float32)).all(axis=1).any() for action in sent[:5])


SLOW = {"low": None, "high": None, "step": 0.5, "velocity": 6.0, "acceleration": 40.0, "jerk": 2000.0}
SLOW_ARM = {"low": -0.5, "high": 0.5, "step": 0.05, "velocity": 2.0, "acceleration": 40.0, "jerk": 4000.0}
OWN = {
    "metaworld": {"hand": SLOW},
    "libero": {"position": SLOW, "turn": SLOW},
    "motions without a state": {"position": SLOW, "turn": SLOW},
    "aloha": {"left_arm": SLOW_ARM, "right_arm": SLOW_ARM},
    "without a state": {"left_arm": SLOW_ARM, "right_arm": SLOW_ARM},
}


def assert_within(body: Embodiment, limits: dict, actions: np.ndarray) -> None:
    """What arrived: of a delta, the action itself and its change; of joints, the box, the steps and their change."""
    begin, hz, slack = 0, body.control_hz, 1e-5
    for group in body.action:
        part = actions[:, begin : (begin := begin + group.dimension)].astype(np.float64)
        if given := limits.get(group.name):
            motions = part if group.representation == "delta" else np.diff(part, axis=0)
            assert np.abs(motions).max() <= min(given["step"], given["velocity"] / hz) + slack
            assert np.abs(np.diff(motions, axis=0)).max() <= given["acceleration"] / hz**2 + slack
            assert group.representation == "delta" or np.abs(part).max() <= given["high"] + slack


def last_motion(log: InMemory) -> float:
    return float(np.abs(log.ticks[-1].command - log.ticks[-2].command).max())


@pytest.mark.parametrize("name", OWN)
def test_own_limits_bound_the_action_and_how_fast_it_changes(bodies, driven, name):
    robot = driven(bodies[name], limits=OWN[name])
    robot.controller.run(seconds=2.0)
    assert_within(bodies[name], OWN[name], np.stack(robot.env.received))
    assert robot.controller.counts.clamped > 20
    assert robot.controller.state is State.RUN


@pytest.mark.parametrize("name", OWN)
def test_a_button_brings_it_to_rest_within_its_limits(bodies, driven, button, name):
    robot = driven(bodies[name], limits=OWN[name], stop=button)
    robot.controller.run(seconds=2.0)
    assert (robot.controller.state, robot.controller.reason) == (State.STOP, "the button")
    arrived = np.stack(robot.env.received)
    assert_within(bodies[name], OWN[name], arrived)
    assert last_motion(robot.log) < 0.04  # it came to rest within this tick
    assert len(arrived) < bodies[name].control_hz * 2


@pytest.mark.parametrize("name", ["metaworld", "libero", "motions without a state"])
def test_held_a_motion_is_none_and_the_gripper_keeps_what_it_was_told(bodies, driven, name):
    robot = driven(bodies[name], fails_after=2)
    robot.controller.run(seconds=1.6)
    assert robot.controller.state is State.HOLD
    told = robot.policy.chunks[-1][-1]
    assert robot.env.received[-1].tolist() == [0.0] * (len(told) - 1) + [told[-1]]


@pytest.mark.parametrize("name", ["aloha", "without a state"])
def test_held_joints_are_told_again_what_they_were_told(bodies, driven, name):
    robot = driven(bodies[name], limits=OWN[name], fails_after=2)
    robot.controller.run(seconds=0.9)
    assert robot.controller.state is State.HOLD
    assert np.array_equal(robot.env.received[-2], robot.env.received[-1])
    assert np.allclose(robot.env.received[-1], robot.log.ticks[-1].command, atol=0.05)
    assert np.abs(robot.env.received[-1]).max() > 0.1


@pytest.mark.parametrize(("name", "arrives"), [("aloha", {0.125}), ("without a state", set())])
def test_before_the_first_action_joints_stay_where_they_are_measured(bodies, driven, name, arrives):
    robot = driven(bodies[name], fails_after=0)
    robot.controller.run(seconds=0.2)
    assert {float(value) for action in robot.env.received for value in action} == arrives
    assert robot.controller.counts.stale == 0


FAULTS = {
    "late": lambda: [Delayed(ticks=4, jitter=4)],
    "dropped": lambda: [Dropped(share=0.6)],
    "lost for good": lambda: [Dropped(share=1.0, after=20)],
    "NaN for good": lambda: [NotANumber(share=1.0, after=20)],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["metaworld", "aloha"])
def test_whatever_is_seen_nothing_beyond_the_limits_arrives(bodies, driven, name, fault):
    execution = RecedingHorizon(steps=3, blend=2)
    robot = driven(bodies[name], limits=OWN[name], faults=FAULTS[fault](), execution=execution)
    robot.controller.run(seconds=1.9)
    assert_within(bodies[name], OWN[name], np.stack(robot.env.received))
    if fault.endswith("for good"):
        assert robot.controller.state in (State.HOLD, State.STOP)
        assert last_motion(robot.log) < 1e-9


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("metaworld", {"hand": None, "gripper": None}),
        ("pinching", {"hand": None, "gripper": "fingers"}),
        ("libero", {"position": None, "turn": None, "gripper": None}),
        ("aloha", {name: name for name in ("left_arm", "left_gripper", "right_arm", "right_gripper")}),
        ("without a state", dict.fromkeys(("left_arm", "left_gripper", "right_arm", "right_gripper"))),
    ],
)
def test_what_measures_an_action_is_found_by_name_and_kind(bodies, name, found):
    assert measured_by(bodies[name]) == found


def test_another_name_another_unit_and_another_frame(bodies, group_of):
    other = replace(bodies["aloha"], state=(group_of("q", 6), group_of("gripper", 1, unit="1")), action=(group_of("joints", 6),))
    assert measured_by(other) == {"joints": "q"}
    for change in ({"unit": "deg"}, {"frame": "left"}, {"representation": "delta", "unit": "1"}):
        assert measured_by(replace(other, action=(replace(other.action[0], **change),))) == {"joints": None}


def test_a_gripper_is_measured_by_the_ends_of_its_state(bodies):
    points = SetPoints(bodies["pinching"], measured_by(bodies["pinching"]), FromMeasured())
    state = np.array([0.1, 0.2, 0.3, 0.035], np.float32)
    assert points.measured(state).tolist() == [0, 0, 0, -1]  # 35 of 40 mm open
    state[3] = 0.002
    assert points.measured(state)[3] == 1


def test_only_a_delta_may_go_anywhere(bodies):
    Limits(OWN["libero"]).axes(bodies["libero"])
    with pytest.raises(ValueError, match="limits of left_arm: low is null; low and high of a delta may be"):
        Limits({"left_arm": SLOW, "right_arm": SLOW_ARM} | dict.fromkeys(["left_gripper", "right_gripper"], SLOW_ARM)).axes(
            bodies["aloha"]
        )
    with pytest.raises(ValueError, match="step is null"):
        Limits(OWN["libero"] | {"turn": SLOW | {"step": None}}).axes(bodies["libero"])


@pytest.mark.parametrize("hz", [5.0, 50.0])
@pytest.mark.parametrize("unit", [0.01, 100.0])
def test_any_step_can_follow_on_any_other_in_any_unit(bodies, unit, hz):
    body, random = replace(bodies["aloha"], control_hz=hz), np.random.default_rng(0)
    reach = reach_of(body)
    axes = LimitsOfData(MARGIN).axes(body, replace(reach, low=unit * reach.low, high=unit * reach.high))
    safety = Safety(axes, hz=hz)
    safety.seed(np.zeros(14))
    for _ in range(10):
        for _ in range(10):
            asked = unit * random.choice([-1.0, 0.3, 1.0], 14)
            assert not safety.filter(asked).clamped.any()
        for _ in range(3):
            assert np.abs(safety.brake().command).max() <= axes.high[0] * (1 + 1e-9)  # it could always stop in its box
        assert not safety.moving


def test_what_is_relative_to_the_start_reaches_further_from_the_states(tiny_contract):
    body = tiny_contract.embodiment
    position = replace(body.action[0], name="tool_position", representation="relative_to_first")
    relative = replace(tiny_contract, embodiment=replace(body, action=(position, body.action[1])))
    reach = Extents.executed(relative)
    assert reach.low.tolist() == pytest.approx([-0.23, -0.23, -0.03, 0.0])
    assert reach.high.tolist() == pytest.approx([0.23, 0.23, 0.17, 1.0])
    chunk = np.array([[0.2, 0.2, 0.14, 1.0]], np.float32)
    assert ActionRange(reach, margin=0.0).problem(chunk) is None
    assert ActionRange(Extents.executed(tiny_contract), margin=0.0).problem(chunk) is not None
