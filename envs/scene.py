"""The physics of the tabletop: three cubes, a suction tool, and nothing about goals or pictures."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import mujoco
import numpy as np
from jaxtyping import Float

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.75, 0.15), "blue": (0.15, 0.25, 0.95), "yellow": (0.95, 0.85, 0.1)}
CUBES = 3
CUBE_HALF = 0.02  # m, half an edge
CUBE_EDGE = 2 * CUBE_HALF
CONTROL_HZ = 10
SUBSTEPS = 20  # of 5 ms: one control step of 0.1 s
ACTION_LOW = np.array([-0.03, -0.03, -0.03, 0.0], np.float32)  # m, m, m, suction
ACTION_HIGH = np.array([0.03, 0.03, 0.03, 1.0], np.float32)
TOOL_LOW = np.array([-0.24, -0.22, 0.008])  # m, where the tool tip may be sent
TOOL_HIGH = np.array([0.24, 0.22, 0.14])

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # everything a step depends on, warm start included
_GRASP_RADIUS, _GRASP_GAP = 0.025, 0.012  # m, tool axis to cube centre and tip to cube top


@cache
def model() -> mujoco.MjModel:
    """The compiled model, one per process: all scenes and the renderer share it."""
    return mujoco.MjModel.from_xml_string((files("envs") / "tabletop.xml").read_text())


@dataclass(frozen=True)
class Snapshot:
    """A moment of a scene; stepping after `Scene.restore` is bit-identical to stepping after `Scene.snapshot`."""

    physics: Float[np.ndarray, " P"]
    colours: tuple[str, ...]


class Scene:
    """Three coloured cubes (edge 4 cm) and a suction tool on a table; needs no OpenGL.

    All positions are in the table frame: metres, x to the right, y away from the front camera, z up, the origin on the
    table's surface.

    Attributes:
        data: MuJoCo's state; the model is shared, see `model`.
        colours: The colour of each cube, by cube index.
    """

    def __init__(self) -> None:
        self.data = mujoco.MjData(model())
        self.colours: tuple[str, ...] = tuple(COLOURS)[:CUBES]
        mujoco.mj_forward(model(), self.data)  # fixed cameras get their poses here

    def place(
        self,
        cubes: Float[np.ndarray, "3 2"],
        yaws: Float[np.ndarray, "3"],
        tool: Float[np.ndarray, "3"],
        colours: tuple[str, ...],
    ) -> None:
        """Put the cubes on the table and the tool in the air, everything at rest and suction off.

        Args:
            cubes: Centres (x, y) in m.
            yaws: Rotations about z in rad.
            tool: Tip position (x, y, z) in m.
            colours: One name of `COLOURS` for each cube.
        """
        mujoco.mj_resetData(model(), self.data)
        self.colours = tuple(colours)
        poses = self._cube_poses()
        poses[:, :2], poses[:, 2] = cubes, CUBE_HALF
        poses[:, 3:] = np.stack([np.cos(yaws / 2), 0 * yaws, 0 * yaws, np.sin(yaws / 2)], 1)
        self.data.qpos[7 * CUBES :] = self.data.ctrl[:3] = tool
        mujoco.mj_forward(model(), self.data)

    def scatter(self, rng: np.random.Generator) -> None:
        """Place cubes of random colours at random poses at least 8.5 cm apart, and the tool 6 to 11 cm up."""
        colours = tuple(str(name) for name in rng.permutation(list(COLOURS))[:CUBES])
        tool = rng.uniform([-0.18, -0.18, 0.06], [0.18, 0.18, 0.11])
        self.place(_spread(rng), rng.uniform(-0.3, 0.3, CUBES), tool, colours)

    def raise_cube(self, cube: int, *, height: float) -> None:
        """Hang a cube in the air for a picture: its centre goes to `height` m, and falls with the next step."""
        self._cube_poses()[cube, 2] = height
        mujoco.mj_kinematics(model(), self.data)

    def cubes(self) -> Float[np.ndarray, "3 3"]:
        """Centres of the cubes, m."""
        return self._cube_poses()[:, :3].copy()

    def speeds(self) -> Float[np.ndarray, "3"]:
        """Speeds of the cubes' centres, m/s."""
        return np.linalg.norm(self.data.qvel[: 6 * CUBES].reshape(CUBES, 6)[:, :3], axis=1)

    def tool(self) -> Float[np.ndarray, "3"]:
        """Position of the tool's tip, m: where it is, not where it was sent."""
        return self.data.qpos[7 * CUBES :].copy()

    @property
    def suction(self) -> bool:
        """Whether suction is commanded."""
        return bool(self.data.ctrl[3] > 0.5)

    def held(self) -> int | None:
        """Index of the cube under the sucking tip, or None."""
        gaps = self.tool() - self.cubes() - np.array([0, 0, CUBE_HALF])
        under = (np.linalg.norm(gaps[:, :2], axis=1) < _GRASP_RADIUS) & (np.abs(gaps[:, 2]) < _GRASP_GAP)
        return int(under.argmax()) if self.suction and under.any() else None

    def step(self, action: Float[np.ndarray, "4"]) -> None:
        """Advance one control step of 0.1 s.

        Args:
            action: (dx, dy, dz) in m, added to the tip's present position to give the position controllers' target, and
                suction, on above 0.5. As a real controller does, the scene limits the motion to `ACTION_LOW` and
                `ACTION_HIGH` and the target to `TOOL_LOW` and `TOOL_HIGH`.

        Raises:
            ValueError: If the action is not four finite numbers.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"action must be four finite numbers (dx, dy, dz in m, suction 0 to 1), got {action}")
        action = np.clip(action, ACTION_LOW, ACTION_HIGH)
        self.data.ctrl[:3] = np.clip(self.tool() + action[:3], TOOL_LOW, TOOL_HIGH)
        self.data.ctrl[3] = float(action[3] > 0.5)
        mujoco.mj_step(model(), self.data, SUBSTEPS)
        mujoco.mj_kinematics(model(), self.data)  # pictures show this moment, not the last substep's start

    def snapshot(self) -> Snapshot:
        """Everything the future depends on."""
        physics = np.empty(mujoco.mj_stateSize(model(), _STATE))
        mujoco.mj_getState(model(), self.data, physics, _STATE)
        return Snapshot(physics, self.colours)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a moment of this or of another scene."""
        mujoco.mj_setState(model(), self.data, snapshot.physics, _STATE)
        mujoco.mj_kinematics(model(), self.data)
        self.colours = snapshot.colours

    def project(self, points: Float[np.ndarray, "N 3"], camera: str, height: int, width: int) -> Float[np.ndarray, "N 2"]:
        """Where points of the table frame appear in a picture.

        Args:
            points: Positions in m.
            camera: A name of the model's cameras, see `camera_id`.
            height: Of the picture, in pixels.
            width: Of the picture, in pixels.

        Returns:
            (u, v): columns to the right and rows downwards in pixels from the picture's upper left corner; the centre of
            the first pixel is (0.5, 0.5). Points outside the picture get coordinates outside it.
        """
        index = camera_id(camera)
        local = (points - self.data.cam_xpos[index]) @ self.data.cam_xmat[index].reshape(3, 3)
        focal = height / 2 / np.tan(np.deg2rad(model().cam_fovy[index]) / 2)
        return np.array([width / 2, height / 2]) + focal * local[:, :2] * [1, -1] / -local[:, 2:]

    def _cube_poses(self) -> Float[np.ndarray, "3 7"]:
        """A view of the cubes' positions (m) and quaternions (w x y z)."""
        return self.data.qpos[: 7 * CUBES].reshape(CUBES, 7)


def camera_names() -> tuple[str, ...]:
    """The cameras of the scene."""
    return tuple(model().camera(index).name for index in range(model().ncam))


def camera_id(name: str) -> int:
    """Index of a camera in the model.

    Raises:
        ValueError: If there is no camera of this name.
    """
    if name not in camera_names():
        raise ValueError(f"unknown camera {name!r}: choose from {', '.join(camera_names())}")
    return camera_names().index(name)


def _spread(rng: np.random.Generator) -> Float[np.ndarray, "3 2"]:
    """Random cube centres (x, y) in m, at least 8.5 cm from each other."""
    for _ in range(1000):
        centres = rng.uniform([-0.14, -0.12], [0.14, 0.12], (CUBES, 2))
        gaps = np.linalg.norm(centres[:, None] - centres, axis=-1) + np.eye(CUBES)
        if gaps.min() > 0.085:
            return centres
    raise RuntimeError("no free place for the cubes in 1000 draws: is the random generator broken?")
