"""Drawers, doors and knobs."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

import mujoco
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from envs.libero.expert.hand import SLOPE, Action, eased, grips, move, nearer, off_turn
from envs.libero.expert.scene import Scene

UP = np.array([0.0, 0.0, 1.0])


def value(scene: Scene, joint: int) -> float:
    """Position of a joint, m or rad."""
    return float(scene.data.qpos[scene.layout.model.jnt_qposadr[joint]])


def opened(model: mujoco.MjModel, joint: int) -> float:
    """Where a joint is all open: the end of its range that is farther from 0, m or rad."""
    low, high = model.jnt_range[joint]
    return float(high if abs(high) > abs(low) else low)


def moving(scene: Scene, joint: int) -> Int[np.ndarray, " _"]:
    """Geoms of what a joint moves."""
    body = scene.layout.model.jnt_bodyid[joint]
    geoms = np.concatenate(list(scene.layout.geoms.values()))
    return geoms[scene.layout.model.geom_bodyid[geoms] == body]


def _outwards(scene: Scene, joint: int) -> Float[np.ndarray, "3"]:
    """Direction in which a drawer opens."""
    return scene.data.xaxis[joint] * np.sign(opened(scene.layout.model, joint))


def room(scene: Scene, joint: int, region: str, owner: str) -> Float[np.ndarray, "3"]:
    """Middle (m) of what is open of a drawer, from the front of its cabinet to its own, at the height of its middle."""
    outwards, model = _outwards(scene, joint), scene.layout.model
    middle, geoms = scene.region(region), scene.layout.geoms[owner]
    frame = geoms[~np.isin(model.geom_bodyid[geoms], model.jnt_bodyid)]
    site = model.site(region).id
    half = np.abs(outwards @ scene.data.site_xmat[site].reshape(3, 3)) @ model.site_size[site]
    front, end = (scene.corners(frame) @ outwards).max(), middle @ outwards + half
    return middle + outwards * ((max(front, end - 2 * half) + end) / 2 - middle @ outwards)


def _handle(scene: Scene, joint: int) -> Float[np.ndarray, "3"]:
    """Middle of what sticks out farthest."""
    middles = scene.corners(moving(scene, joint)).mean(1)
    return middles[np.argmax(middles @ _outwards(scene, joint))]


def pull(scene: Scene, joint: int) -> Action:
    """Take a drawer's handle with the hand level, one finger above it and one below, and draw it out."""
    outwards, handle = _outwards(scene, joint), _handle(scene, joint)
    closing = nearer(scene, UP, -outwards)
    turn = off_turn(scene, closing, -outwards)
    off = scene.hand - handle
    along = float(off @ outwards)
    across = float(np.linalg.norm(off - along * outwards))
    if all(scene.touching(moving(scene, joint))) and turn < 0.35:
        return move(scene, handle + outwards * (along + 0.06), closing, True, palm=-outwards)
    if turn > 0.25 or across > 0.015:
        return move(scene, handle + outwards * np.clip(along, 0.10, 0.13), closing, False, palm=-outwards)
    shut = along < 0.012 or (scene.shutting and along < 0.020)
    return move(scene, handle, closing, shut, speed=0.6, palm=-outwards)


def push_shut(scene: Scene, joint: int) -> Action:
    """Push a drawer or a door to with closed fingers that point down, from in front of it."""
    (point, way), hand = _push(scene, joint), scene.hand
    closing = nearer(scene, np.cross(UP, way))
    off = point - hand
    across = off - (off @ way) * way
    if np.linalg.norm(across) < 0.03 and off @ way > 0:
        return move(scene, hand + across + 0.04 * way, closing, True, speed=0.7)
    start = point - 0.06 * way
    top = max(scene.ceiling(hand, start, (), 0.05), point[2]) + 0.04
    if np.linalg.norm((start - hand)[:2]) > 0.02:
        return move(scene, np.append(start[:2] if hand[2] > top - 0.03 else hand[:2], top), closing, True)
    return move(scene, start, closing, True)


def _push(scene: Scene, joint: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Where to push to close (m), and in which direction: a drawer at its handle, a door near the edge that swings."""
    if slides(scene, joint):
        return _handle(scene, joint), -_outwards(scene, joint)
    hinge, corners = scene.data.xanchor[joint], scene.corners(moving(scene, joint)).reshape(-1, 3)
    arm = (corners[np.linalg.norm((corners - hinge)[:, :2], axis=1).argmax()] - hinge) * [1.0, 1.0, 0.0]
    way = -np.sign(opened(scene.layout.model, joint)) * np.cross(scene.data.xaxis[joint], arm)
    return np.append((hinge + 0.75 * arm)[:2], (corners[:, 2].min() + corners[:, 2].max()) / 2), way / np.linalg.norm(way)


def slides(scene: Scene, joint: int) -> bool:
    """Whether a joint is a drawer's, not a door's."""
    return int(scene.layout.model.jnt_type[joint]) == int(mujoco.mjtJoint.mjJNT_SLIDE)


def turn_knob(scene: Scene, joint: int, way: int) -> Action:
    """Take the ridge of a knob from above, and turn the hand.

    Args:
        scene: The present.
        joint: Of the knob.
        way: 1 turns it on, -1 off.
    """
    ridge, hand = _ridge(scene, joint), scene.hand
    corners = scene.corners(np.array([ridge]))[0]
    point = (corners.min(0) + corners.max(0)) / 2
    point = np.append((point[:2] + scene.data.xanchor[joint][:2]) / 2, corners[:, 2].max() - 0.014)
    if all(scene.touching(moving(scene, joint))):
        turned = Rotation.from_rotvec(0.5 * way * UP).apply(scene.closing)
        return move(scene, np.append(point[:2], hand[2]), turned, True)
    closing = nearer(scene, scene.level_axes(ridge)[0])
    side = float(np.linalg.norm((point - hand)[:2]))
    if grips(scene, side, off_turn(scene, closing), hand[2] - point[2]):
        return move(scene, point, closing, True)
    hover = max(scene.ceiling(hand, point, (), 0.05), point[2]) + 0.05
    if hand[2] < hover - 0.03 and side > 0.02:
        return move(scene, np.append(hand[:2], hover), closing, False)
    return move(scene, np.append(point[:2], point[2] + eased(side, *SLOPE) * (hover - point[2])), closing, False)


def _ridge(scene: Scene, joint: int) -> int:
    """The geom of a knob that is highest."""
    geoms = moving(scene, joint)
    return int(geoms[np.argmax(scene.corners(geoms)[:, :, 2].max(1))])
