"""A ROS 2 robot driven by a policy that is served elsewhere; run it with the Python of your ROS installation.

rclpy is not on PyPI: it comes with ROS and belongs to ROS's own Python. Install this project there without its dependencies, and
the few that a robot computer needs:

    pip install --no-deps vla-tune
    pip install "numpy<2.3" jaxtyping msgpack websockets ruckig pyyaml
    source /opt/ros/jazzy/setup.bash
    python ros2_bridge.py robot.yaml ws://server:8000 "lift the red block"

`robot.yaml` says what nothing can guess:

    joints: {joints_0: shoulder, joints_1: elbow, gripper: gripper}   # dimension of the policy's state -> its name in /joint_states
    cameras: {front: /camera/image_raw}       # role -> topic (sensor_msgs/Image, rgb8 or bgr8)
    command: /forward_position_controller/commands   # std_msgs/Float64MultiArray
    commanded: [joints_0, joints_1, gripper]  # dimensions of the policy's action, in the order of the controller's `joints`
    hz: 30
    state_of: {joints: joints, gripper: gripper}
    limits: {joints: {low: -1.5, high: 1.5, step: 0.05, velocity: 1.0, acceleration: 5.0, jerk: 50.0}}

Topics are read in rclpy's own thread; the controller takes the newest of each. The time of an observation is that of the oldest
topic in it, by this machine's clock, so a camera that stops is noticed. Stop with Ctrl-C or by `touch STOP`.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rclpy
import yaml
from jaxtyping import Float
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray

from vla_tune.control.emergency import AnyOf, StopFile, StopSignal
from vla_tune.control.joints import joints_in_order
from vla_tune.control.limits import Limits
from vla_tune.control.log import InMemory
from vla_tune.control.loop import Controller
from vla_tune.control.parts import Parts
from vla_tune.control.robot import Seen
from vla_tune.control.robot_policy import Instructed, in_robot_units
from vla_tune.control.safety import ActionRange, Safety
from vla_tune.control.setpoints import FromCommanded, SetPoints
from vla_tune.control.state import Rules
from vla_tune.execution import RecedingHorizon
from vla_tune.extents import Extents
from vla_tune.schema import Contract, Embodiment, Observation
from vla_tune.serving.client import RemotePolicy
from vla_tune.serving.protocol import contract_in


class Ros2Robot(Node):
    """Topics as a robot (`vla_tune.control.robot.Robot`)."""

    def __init__(
        self,
        embodiment: Embodiment,
        *,
        joints: Sequence[str] | Mapping[str, str],
        cameras: Mapping[str, str],
        command: str,
        commanded: Sequence[str],
        hz: float,
    ) -> None:
        super().__init__("vla_tune")
        if missing := sorted({camera.role for camera in embodiment.cameras} - cameras.keys()):
            raise ValueError(f"cameras: no topic for {', '.join(missing)}.")
        self.embodiment, self.hz = embodiment, hz
        self._joints = joints_in_order(joints, embodiment.state, what="joints")
        names = joints_in_order(commanded, embodiment.action, what="commanded")
        self._places = [names.index(name) for name in commanded]
        self._lock, self._stopped = threading.Lock(), False
        self._newest: dict[str, tuple[Any, float]] = {}
        self._publisher = self.create_publisher(Float64MultiArray, command, 1)
        self.create_subscription(JointState, "/joint_states", self._on_joints, 1)
        for role, topic in cameras.items():
            self.create_subscription(Image, topic, lambda message, role=role: self._on_image(role, message), 1)
        self._expected = {"joints", *cameras}

    def connect(self) -> None:
        """Waits until every topic was heard once.

        Raises:
            ConnectionError: one was not, within ten seconds.
        """
        deadline = time.monotonic() + 10
        while missing := self._expected - self._newest.keys():
            if time.monotonic() > deadline:
                raise ConnectionError(f"nothing was heard on the topics of {', '.join(sorted(missing))}: is the driver running?")
            time.sleep(0.01)

    def observe(self) -> Seen:
        """The newest of each topic."""
        with self._lock:
            newest = dict(self._newest)
        images = {role: value for role, (value, _) in newest.items() if role != "joints"}
        observation = Observation(images=images, state=newest["joints"][0], instruction="")
        return Seen(observation, min(heard for _, heard in newest.values()))

    def send(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """Publishes it, unless the robot was stopped."""
        if self._stopped:
            return np.full_like(action, np.nan)
        self._publisher.publish(Float64MultiArray(data=[float(action[place]) for place in self._places]))
        return action

    def hold(self) -> None:
        """The position controller holds the last command."""

    def stop(self) -> None:
        """Nothing is published any more."""
        self._stopped = True

    def disconnect(self) -> None:
        """Leaves the graph."""
        self.destroy_node()

    def _on_joints(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        if set(self._joints) <= positions.keys():  # a driver may publish the gripper in a message of its own
            self._keep("joints", np.array([positions[name] for name in self._joints], np.float32))

    def _on_image(self, role: str, message: Image) -> None:
        if message.encoding not in ("rgb8", "bgr8"):
            raise ValueError(f"the camera {role} sends {message.encoding}: rgb8 and bgr8 are read; convert it with image_proc.")
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        image = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        self._keep(role, image if message.encoding == "rgb8" else np.ascontiguousarray(image[..., ::-1]))

    def _keep(self, name: str, value: Any) -> None:
        with self._lock:
            self._newest[name] = (value, time.monotonic())


def parts(robot: Ros2Robot, policy: Any, contract: Contract, settings: Mapping[str, Any], stops: Sequence[Any]) -> Parts:
    """The controller's parts, with rules for an arm on a table."""
    return Parts(
        robot=robot,
        policy=policy,
        actions=ActionRange(Extents.executed(contract), margin=0.25),
        set_points=SetPoints(contract.embodiment, settings["state_of"], FromCommanded()),
        safety=Safety(Limits(settings["limits"]).axes(contract.embodiment), hz=robot.hz),
        execution=RecedingHorizon(steps=contract.execute_steps, blend=2),
        stop=AnyOf(stops),
        rules=Rules(stale=0.5, frozen=1.0, patience=5.0, rejections=3, watchdog=0.5),
        log=InMemory(),
    )


def in_radians(body: Embodiment) -> dict[str, str]:
    """The units of ROS (REP 103) for what the policy has in degrees."""
    groups = {f"{column}.{group.name}": group.unit for column in ("state", "action") for group in getattr(body, column)}
    return {name: unit.replace("deg", "rad") for name, unit in groups.items() if unit.startswith("deg")}


def main(path: str, url: str, instruction: str) -> None:
    """Connect, run until it is stopped, come to rest."""
    with open(path) as file:
        settings = yaml.safe_load(file)
    remote, signals = RemotePolicy(url), StopSignal()
    contract = contract_in(remote.metadata)
    rclpy.init()
    policy, contract, said = in_robot_units(Instructed(remote, instruction), contract, in_radians(contract.embodiment))
    print(f"Converted for the policy: {said}." if said else "Nothing is converted.")
    robot = Ros2Robot(contract.embodiment, **{name: settings[name] for name in ("joints", "cameras", "command", "commanded", "hz")})
    threading.Thread(target=rclpy.spin, args=(robot,), daemon=True).start()
    with signals.listening():
        robot.connect()
        controller = Controller(parts(robot, policy, contract, settings, [StopFile("STOP"), signals]))
        controller.run(seconds=float("inf"))
    robot.disconnect()
    print(controller.state, controller.reason)


if __name__ == "__main__":
    main(*sys.argv[1:4])
