"""A LeRobot robot by name, driven through our own interface."""

from pathlib import Path

import numpy as np
import pytest

from vla_tune.control.lerobot_robot import LeRobotRobot
from vla_tune.control.robot import Robot

KEYS = ["shoulder.pos", "elbow.pos", "gripper.pos"]


@pytest.fixture
def made(body, monkeypatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import lerobot_robot_pretend  # noqa: F401 (registers it, as a distribution of this name would be)

    def make(**changed) -> LeRobotRobot:
        given = {"type": "pretend", "options": {"limit": 0.5, "calibration_dir": tmp_path}, "state": KEYS, "action": KEYS}
        return LeRobotRobot(**(given | {"cameras": {"front": "wrist"}, "hz": 50, "embodiment": body} | changed))

    return make


def test_it_is_observed_sent_held_and_stopped(made):
    robot = made()
    assert isinstance(robot, Robot)
    robot.connect()
    seen = robot.observe()
    assert seen.observation.images["front"].shape == (4, 4, 3)
    assert np.allclose(robot.send(np.array([0.1, 0.9, 1.0], np.float32)), [0.1, 0.5, 0.5])  # what LeRobot clamped is told
    robot.hold()
    assert np.allclose(robot.observe().observation.state, [0.1, 0.5, 0.5])
    robot.stop()
    assert np.isnan(robot.send(np.zeros(3, np.float32))).all()
    assert np.allclose(robot.observe().observation.state, [0.1, 0.5, 0.5])
    robot.disconnect()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"type": "so999"}, "robot.type='so999': LeRobot knows .*so101_follower"),
        ({"state": KEYS[:2]}, "robot.state names 2 keys, arm has 3 state dimensions"),
        ({"cameras": {}}, "robot.cameras names no key for front"),
        ({"action": ["waist.pos", *KEYS[1:]]}, "pretend has no action waist.pos: it has elbow.pos"),
        ({"cameras": {"front": "roof"}}, "pretend has no observation roof"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_connected(made, changed, message):
    with pytest.raises(ValueError, match=message):
        made(**changed)
