"""How the hand is moved: from where it shall be to LIBERO's action."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from envs.libero.expert.scene import Scene

DOWN = np.array([0.0, 0.0, -1.0])
_GAIN = 2.0  # of the way that is left, asked for in one step
_REACH = np.array([0.05, 0.5])  # m and rad that an action of 1 asks for
_TURN = 0.5  # largest turn that is asked for, of 1
SLOPE = (0.010, 0.030)
"""Sideways errors (m) at which the hand is all the way down, and still high."""
TURNED = (0.10, 0.30)
"""The same for its orientation, rad."""

Action = Float[np.ndarray, "7"]
"""LIBERO's own numbers: move along x, y, z of the world, turn about them, gripper -1 opens and +1 closes; all in [-1, 1]."""


def move(
    scene: Scene,
    target: Float[np.ndarray, "3"],
    closing: Float[np.ndarray, "3"],
    shut: bool,
    *,
    speed: float = 1.0,
    palm: Float[np.ndarray, "3"] = DOWN,
) -> Action:
    """Move towards a place of the grip site.

    Args:
        scene: The present.
        target: Of the grip site, m.
        closing: Direction in which the fingers shall close; unit vector at right angles to `palm`.
        shut: Whether the fingers shall be closed.
        speed: Largest motion per axis, of 1.
        palm: Direction out of the palm.
    """
    way = np.clip((target - scene.hand) / _REACH[0] * _GAIN, -speed, speed)
    turn = np.clip(_rotation(scene, closing, palm).as_rotvec() / _REACH[1] * _GAIN, -_TURN, _TURN)
    return np.concatenate([way, turn, [1.0 if shut else -1.0]])


def off_turn(scene: Scene, closing: Float[np.ndarray, "3"], palm: Float[np.ndarray, "3"] = DOWN) -> float:
    """Angle (rad) between the hand and a wanted orientation."""
    return float(_rotation(scene, closing, palm).magnitude())


def nearer(scene: Scene, closing: Float[np.ndarray, "3"], palm: Float[np.ndarray, "3"] = DOWN) -> Float[np.ndarray, "3"]:
    """The closing direction or its opposite, which is the same grasp: whichever the hand is nearer to."""
    return closing if off_turn(scene, closing, palm) <= off_turn(scene, -closing, palm) else -closing


def rise(scene: Scene, height: float = 0.05) -> Action:
    """Go straight up with open fingers."""
    return move(scene, scene.hand + up(height), scene.closing, False)


def up(height: float) -> Float[np.ndarray, "3"]:
    """A way straight up, m."""
    return np.array([0.0, 0.0, height])


def grips(scene: Scene, side: float, turn: float, above: float) -> bool:
    """Whether to close here: strictly at first; once begun it goes on unless the hand has left or has closed on nothing."""
    if scene.begun:
        return side < 0.025 and turn < TURNED[1] and abs(above) < 0.020 and scene.opening > 0.002
    return side < SLOPE[0] and turn < TURNED[0] and -0.010 < above < 0.006


def eased(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`, straight between."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))


def _rotation(scene: Scene, closing: Float[np.ndarray, "3"], palm: Float[np.ndarray, "3"]) -> Rotation:
    wanted = np.stack([closing, np.cross(palm, closing), palm], 1)
    return Rotation.from_matrix(wanted @ scene.axes.T)
