"""A robot of two joints and a gripper that does exactly what it is sent, on a clock that a test turns."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from vla_tune.control.emergency import AnyOf
from vla_tune.control.limits import Limits
from vla_tune.control.log import InMemory
from vla_tune.control.loop import Controller
from vla_tune.control.parts import Parts
from vla_tune.control.robot import Seen
from vla_tune.control.safety import ActionRange, Safety
from vla_tune.control.setpoints import FromCommanded, SetPoints
from vla_tune.control.state import Clock, Rules
from vla_tune.execution import RecedingHorizon
from vla_tune.extents import Extents
from vla_tune.schema import Camera, Embodiment, Gripper, Group, Observation

HZ = 50.0


def group(name: str, dimension: int, **changed) -> Group:
    given = {
        "unit": "rad",
        "frame": "none",
        "representation": "absolute",
        "rotation": "none",
        "normalization": "quantile",
        "gripper": None,
    }
    return Group(name=name, dimension=dimension, **(given | changed))


GRIPPER = group("gripper", 1, unit="1", normalization="none", gripper=Gripper(engaged=1.0, released=0.0))


@pytest.fixture(scope="session")
def group_of():
    """Makes a group."""
    return group


@pytest.fixture(scope="session")
def gripper() -> Group:
    return GRIPPER


@pytest.fixture(scope="session")
def body() -> Embodiment:
    return Embodiment(
        name="arm",
        cameras=(Camera(role="front", key="observation.images.front", height=4, width=4),),
        state_key="observation.state",
        state=(group("joints", 2), GRIPPER),
        action_key="action",
        action=(group("joints", 2), GRIPPER),
        control_hz=HZ,
    )


@pytest.fixture(scope="session")
def limits() -> dict:
    return LIMITS


LIMITS = {"joints": {"low": [-2.0, -1.0], "high": [2.0, 1.0], "step": 0.05, "velocity": 2.0, "acceleration": 20.0, "jerk": 400.0}}


@pytest.fixture(scope="session")
def assert_within_limits():
    """For commands, one per tick: box, step, velocity, acceleration and jerk of the arm."""

    def check(commands: np.ndarray) -> None:
        path, given, rounding = commands[:, :2], LIMITS["joints"], 1e-9
        steps = np.diff(path, axis=0)
        assert (path >= np.array(given["low"]) - rounding).all()
        assert (path <= np.array(given["high"]) + rounding).all()
        assert np.abs(steps).max(initial=0) <= given["step"] + rounding
        assert np.abs(steps).max(initial=0) * HZ <= given["velocity"] + rounding
        assert np.abs(np.diff(steps, axis=0)).max(initial=0) * HZ**2 <= given["acceleration"] + 1e-6
        assert np.abs(np.diff(steps, n=2, axis=0)).max(initial=0) * HZ**3 <= given["jerk"] + 1e-3

    return check


@dataclass(eq=False)
class Arm:
    """Is where it was sent."""

    embodiment: Embodiment
    clock: Clock
    hz: float = HZ
    position: np.ndarray = field(default_factory=lambda: np.zeros(3))
    sent: list[np.ndarray] = field(default_factory=list)
    stopped: bool = False
    held: int = 0
    pictures: int = 0

    def connect(self) -> None: ...

    def observe(self) -> Seen:
        self.pictures += 1
        image = np.full((4, 4, 3), self.pictures % 256, np.uint8)
        return Seen(Observation({"front": image}, self.position.astype(np.float32), "go"), self.clock.now())

    def send(self, action: np.ndarray) -> np.ndarray:
        assert not self.stopped, "a stopped robot was sent an action"
        self.sent.append(action.copy())
        self.position = action.astype(np.float64)
        return action

    def hold(self) -> None:
        self.held += 1

    def stop(self) -> None:
        self.stopped = True

    def disconnect(self) -> None: ...


EXTENTS = Extents(
    low=np.array([-2.0, -1.0, 0.0]), high=np.array([2.0, 1.0, 1.0]), apart=np.array([0.0, 0.0, 1.0]), code=np.full(3, 1 / 128)
)


@pytest.fixture(scope="session")
def extents() -> Extents:
    return EXTENTS


@pytest.fixture
def arm(body: Embodiment, clock: Clock) -> Arm:
    return Arm(body, clock)


class Button:
    """Pressed at the n-th look."""

    def __init__(self, at: int) -> None:
        self.at, self.looks = at, 0

    def pressed(self) -> str | None:
        self.looks += 1
        return "the button" if self.looks >= self.at else None


@pytest.fixture
def button() -> Button:
    return Button(at=20)


@pytest.fixture
def controlled(body: Embodiment, arm: Arm):
    """A controller of the arm with other parts in place of some."""

    def make(policy, **changed) -> tuple[Controller, InMemory]:
        robot = changed.pop("robot", arm)
        log = InMemory()
        parts = {
            "robot": robot,
            "policy": policy,
            "actions": ActionRange(EXTENTS, margin=0.25),
            "set_points": SetPoints(body, {"joints": "joints", "gripper": "gripper"}, FromCommanded()),
            "safety": Safety(Limits(LIMITS).axes(body), hz=robot.hz),
            "execution": RecedingHorizon(steps=4, blend=0),
            "stop": AnyOf([]),
            "rules": Rules(stale=0.5, frozen=1.0, patience=1.0, rejections=3, watchdog=30.0),
            "log": log,
            "clock": arm.clock,
        }
        return Controller(Parts(**(parts | changed))), log

    return make
