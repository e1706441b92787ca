"""A LIBERO task as MuJoCo simulates it: states in, actions in, success out, without pictures and observations."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from envs.libero.controller import addresses
from envs.libero.worlds import world

CONTROL_HZ = 20
_SUBSTEPS = 25  # of 2 ms


class Simulation:
    """A task's physics and controllers, equal to robosuite's to the last bit, at 2.4 times its speed.

    What follows from a state and actions depends on nothing else: the memories that robosuite keeps in Python (how far the gripper
    was told to close, which orientation the arm was told to hold) are cleared when a state is put. As with robosuite, places of
    bodies and contacts after a step are those of its last substep's beginning.

    Args:
        suite: Such as `libero_object`; see `envs.libero.suites.complete`.
        index: The task's place in the suite.

    Raises:
        ValueError: there is no such suite or task, it lacks files, or the extra is not installed.
    """

    def __init__(self, suite: str, index: int) -> None:
        self.world = world(suite, index)
        """What it shares with other simulations of the task."""
        self.task = self.world.task
        self._model = self.world.model
        self.data = mujoco.MjData(self._model)
        """The state; several simulations of a task have each their own, and one model."""
        self._placement = self.world.placement
        self._controller = self.world.controller()
        self.site = self._controller.site
        """Of the point between the fingers."""
        self.fingers = self._controller.fingers
        """Actuators."""
        robot = self.world.problem.robots[0]
        self.finger_joints, self.finger_velocities = addresses(self._model, robot.gripper.joints)
        """Places in qpos and qvel."""
        self.arm_joints, _ = addresses(self._model, robot.robot_model.joints)
        """Places in qpos."""
        self.hand = self._model.body(robot.robot_model.eef_name).id
        """The body whose orientation LIBERO calls that of the end effector."""
        self.goals = [tuple(goal) for goal in self.world.problem.parsed_problem["goal_state"]]
        self.stored = self.task.states
        """Starts that come with the benchmark [n, 1 + nq + nv]: time, positions, velocities."""
        self.put(self.stored[0])

    @property
    def model(self) -> mujoco.MjModel:
        """Its model, with the fixtures where they stand in this simulation."""
        self._enter()
        return self._model

    @property
    def problem(self) -> Any:
        """Robosuite's environment around this simulation's state: objects, fixtures, predicates."""
        self._enter()
        return self.world.problem

    def put(self, state: Float[np.ndarray, " S"]) -> None:
        """Begins an episode in a state: time, positions, velocities; what has no joint stands where it was last drawn.

        Raises:
            ValueError: it is a state of another task.
        """
        model, data = self.model, self.data
        if np.shape(state) != (size := 1 + model.nq + model.nv,):
            raise ValueError(f"a state of {self.task.suite} {self.task.index} has {size} numbers, this one {np.shape(state)}.")
        mujoco.mj_resetData(model, data)
        data.time, data.qpos[:], data.qvel[:] = state[0], state[1 : 1 + model.nq], state[1 + model.nq :]
        mujoco.mj_forward(model, data)
        self._controller.begin()
        self.world.problem._post_process()

    def step(self, action: Float[np.ndarray, "7"]) -> None:
        """Acts for a twentieth of a second: moves and turns of the hand and the gripper (-1 opens, +1 closes), in [-1, 1]."""
        model, action = self.model, np.asarray(action, np.float64)
        for substep in range(_SUBSTEPS):
            mujoco.mj_step1(model, self.data)
            self._controller.act(self.data, action, new=substep == 0)
            mujoco.mj_step2(model, self.data)
        self.world.problem._post_process()

    def success(self) -> bool:
        """Whether the benchmark's predicates hold now."""
        return bool(self.problem._check_success())

    def draw_start(self, rng: np.random.Generator) -> Float64[np.ndarray, " S"]:
        """A start as the stored ones were drawn: things by the problem's samplers, 0.02 rad of noise on the arm's joints.

        Fixtures are drawn along with it, and stand there from now on; the state itself is not put.

        Raises:
            RuntimeError: things found no room in many draws.
        """
        state, self._placement = self.world.draw(rng)
        return state

    def _enter(self) -> None:
        """The world is lent to whoever acts."""
        self.world.lend(self.data, self._placement)
