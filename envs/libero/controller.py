"""robosuite's controllers of arm and gripper (OSC_POSE, PandaGripper), to the last bit, without computing anything twice."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from envs.libero.package import imported, quiet


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the controller knows of the arm."""

    position: Float64[np.ndarray, "3"]
    rotation: Float64[np.ndarray, "3 3"]
    velocity: Float64[np.ndarray, "3"]
    spin: Float64[np.ndarray, "3"]
    moving: Float64[np.ndarray, "3 J"]
    """How joints move the hand."""
    turning: Float64[np.ndarray, "3 J"]
    jacobian: Float64[np.ndarray, "6 J"]
    """Both."""
    mass: Float64[np.ndarray, "J J"]
    joints: Float64[np.ndarray, " J"]
    speeds: Float64[np.ndarray, " J"]


class Controller:
    """Torques of the arm and positions of the fingers, of an action [7] in [-1, 1].

    The arm: operational space control (Khatib 1987) towards a goal that the action moves by up to 0.05 m and 0.5 rad from where
    the hand is, while the orientation that was wanted last stays wanted until an action turns the hand. The fingers: -1 opens, +1
    closes, a hundredth of the way each substep. Both memories belong to this object, and `begin` clears them.

    Args:
        robot: robosuite's robot.
        built: Its controller, as it was when the scene had been built.
        model: The scene.
    """

    def __init__(self, robot: Any, built: Any, model: mujoco.MjModel) -> None:
        self._laws = imported("robosuite.utils.control_utils")
        self._gains, self._gripper, self._model = built, robot.gripper, model
        self._limits = robot.torque_limits
        self.site = model.site(self._gains.eef_name).id
        self._qpos, self._qvel = np.array(self._gains.qpos_index), np.array(self._gains.qvel_index)
        self._arm = [model.actuator(name).id for name in robot.robot_model.actuators]
        self.fingers = [model.actuator(name).id for name in self._gripper.actuators]
        span = model.actuator_ctrlrange[self.fingers]
        self._middle, self._half = 0.5 * (span[:, 1] + span[:, 0]), 0.5 * (span[:, 1] - span[:, 0])
        self._before = _as_built(self._gains)
        self._home = np.array(self._gains.initial_joint)
        self._moving, self._turning = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        self.begin()
        with quiet():  # numba compiles the laws when they are first used, and warns of their style
            self.act(mujoco.MjData(model), np.ones(7), new=True)
        self.begin()

    def begin(self) -> None:
        """An episode begins: as robosuite's, it first acts on what it saw of the arm before the start was put."""
        self._stale: Seen | None = self._before
        self._rotation = self._before.rotation.copy()
        self._closing = np.zeros(len(self.fingers))

    def act(self, data: mujoco.MjData, action: Float64[np.ndarray, "7"], *, new: bool) -> None:
        """Writes controls, between MuJoCo's two halves of a substep; `new` at the first substep of an action."""
        seen, self._stale = self._stale or self._look(data), None
        if new:
            delta = self._gains.scale_action(action[:6])
            if np.any(delta[3:] != 0.0):
                self._rotation = self._laws.set_goal_orientation(delta[3:], seen.rotation)
            self._position = seen.position + delta[:3]
        data.ctrl[self._arm] = np.clip(self._torques(data, seen), *self._limits)
        self._gripper.current_action = self._closing
        self._closing = self._gripper.format_action(action[6:7])
        data.ctrl[self.fingers] = self._middle + self._half * self._closing

    def _torques(self, data: mujoco.MjData, seen: Seen) -> Float64[np.ndarray, " J"]:
        stiffness, damping = self._gains.kp, self._gains.kd
        force = (self._position - seen.position) * stiffness[:3] + -seen.velocity * damping[:3]
        turn = self._laws.orientation_error(self._rotation, seen.rotation)
        torque = turn * stiffness[3:] + -seen.spin * damping[3:]
        _, inertia, turning_inertia, null = self._laws.opspace_matrices(seen.mass, seen.jacobian, seen.moving, seen.turning)
        wrench = np.concatenate([inertia @ force, turning_inertia @ torque])
        wanted = seen.jacobian.T @ wrench + data.qfrc_bias[self._qvel]
        return wanted + self._laws.nullspace_torques(seen.mass, null, self._home, seen.joints, seen.speeds)

    def _look(self, data: mujoco.MjData) -> Seen:
        mujoco.mj_jacSite(self._model, data, self._moving, self._turning, self.site)
        mujoco.mj_fullM(self._model, self._mass, data.qM)
        moving, turning = self._moving[:, self._qvel], self._turning[:, self._qvel]
        return Seen(
            position=data.site_xpos[self.site].copy(),
            rotation=data.site_xmat[self.site].reshape(3, 3).copy(),
            velocity=self._moving @ data.qvel,
            spin=self._turning @ data.qvel,
            moving=moving,
            turning=turning,
            jacobian=np.vstack([moving, turning]),
            mass=self._mass[self._qvel, :][:, self._qvel],
            joints=data.qpos[self._qpos],
            speeds=data.qvel[self._qvel],
        )


def _as_built(gains: Any) -> Seen:
    return Seen(
        position=np.array(gains.ee_pos),
        rotation=np.array(gains.ee_ori_mat),
        velocity=np.array(gains.ee_pos_vel),
        spin=np.array(gains.ee_ori_vel),
        moving=np.array(gains.J_pos),
        turning=np.array(gains.J_ori),
        jacobian=np.array(gains.J_full),
        mass=np.array(gains.mass_matrix),
        joints=np.array(gains.joint_pos),
        speeds=np.array(gains.joint_vel),
    )


def addresses(model: mujoco.MjModel, joints: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of joints with one degree of freedom in qpos and in qvel."""
    found = [model.joint(name) for name in joints]
    return [int(joint.qposadr[0]) for joint in found], [int(joint.dofadr[0]) for joint in found]
