"""Scripted experts: for every goal the next action as a memoryless function of the physics state.

Memoryless means that an expert can be asked from any state, also in the middle of another goal's episode: this is what
makes counterfactual demonstrations possible.
"""

import numpy as np
from jaxtyping import Float, Float32

from envs.goals import DIRECTIONS, Goal, arranged, spot
from envs.scene import ACTION_HIGH, ACTION_LOW, CUBE_EDGE, CUBE_HALF, TOOL_HIGH, Scene

_LOW = 0.012  # m, height of the tip when it pushes
_CLEARANCE = 0.035  # m, between the tip and the highest cube on the way
_CARRY = 0.12  # m, height of the tip with a cube below it on the way
_PRESS = 0.004  # m, how far below a cube's top the tip is sent to seal the cup
_CONTACT, _SEALED = 0.002, 0.004  # m, between the tip and a cube's top: where suction begins, and up to where it is kept
_NEAR, _FAR = 0.012, 0.02  # m, sideways errors at which to descend and to rise first


def expert_action(goal: Goal, scene: Scene) -> Float32[np.ndarray, "4"]:
    """What an expert does next.

    Args:
        goal: What is asked for.
        scene: The present; it is not changed.

    Returns:
        (dx, dy, dz) in m and suction 0 or 1, within `ACTION_LOW` and `ACTION_HIGH`.
    """
    held = scene.held()
    carries = goal.task in ("lift", "stack", "place_left_of")
    if held is not None and not (carries and held == goal.target):
        return _put_down(scene, held)
    if goal.task in DIRECTIONS:
        return _push(goal, scene)
    if goal.task == "touch":
        return _descend_on(goal, scene, seal=False)
    if goal.task == "lift":
        return _rise(scene, TOOL_HIGH[2], suction=True) if _sealed(goal, scene) else _descend_on(goal, scene)
    if arranged(goal, scene):
        return _rise(scene, _hover(scene), suction=False)
    return _deliver(goal, scene) if _sealed(goal, scene) else _descend_on(goal, scene)


def _move(offset: Float[np.ndarray, "3"], suction: bool) -> Float32[np.ndarray, "4"]:
    return np.clip(np.append(offset, suction), ACTION_LOW, ACTION_HIGH).astype(np.float32)


def _rise(scene: Scene, z: float, suction: bool) -> Float32[np.ndarray, "4"]:
    return _move(np.array([0, 0, z - scene.tool()[2]]), suction)


def _hover(scene: Scene) -> float:
    """Height (m) of the tip for travelling with nothing held."""
    return min(scene.cubes()[:, 2].max() + CUBE_HALF + _CLEARANCE, TOOL_HIGH[2])


def _approach(scene: Scene, xy: Float[np.ndarray, "2"], z: float) -> Float[np.ndarray, "3"]:
    """Offset (m) towards the tip position (xy, z), from above and around the cubes."""
    tool, hover = scene.tool(), _hover(scene)
    sideways = xy - tool[:2]
    error = float(np.linalg.norm(sideways))
    if error < _NEAR:
        return np.append(sideways, z - tool[2])
    if tool[2] < hover - _FAR and error > _FAR:
        blocked = tool[2] < hover - _CLEARANCE + 0.005
        return np.append(sideways * (0.0 if blocked else 0.5), hover - tool[2])
    return np.append(sideways, hover - tool[2])


def _push(goal: Goal, scene: Scene) -> Float32[np.ndarray, "4"]:
    """Go behind the cube, down, and ahead while steering towards the cube's middle."""
    x, y = ahead = DIRECTIONS[goal.task]
    cube, tool = scene.cubes()[goal.target], scene.tool()
    offset = tool[:2] - cube[:2]
    along, across = offset @ ahead, offset @ [-y, x]
    if tool[2] < _LOW + 0.014 and -0.075 < along < -0.02 and abs(across) < 0.016:
        return _move(np.append(0.024 * ahead - 0.8 * across * np.array([-y, x]), _LOW - tool[2]), suction=False)
    return _move(_approach(scene, cube[:2] - 0.05 * ahead, _LOW), suction=False)


def _descend_on(goal: Goal, scene: Scene, seal: bool = True) -> Float32[np.ndarray, "4"]:
    """Come down on the target's top, and only there suck, if it is to be sealed.

    A learner that is a step early then rises from the cube, not from above it.
    """
    cube, tool = scene.cubes()[goal.target], scene.tool()
    top = cube[2] + CUBE_HALF
    over = np.linalg.norm(cube[:2] - tool[:2]) < _NEAR
    return _move(_approach(scene, cube[:2], top - _PRESS), suction=bool(seal and over and tool[2] - top < _CONTACT))


def _sealed(goal: Goal, scene: Scene) -> bool:
    """Whether the target hangs on the cup."""
    gap = scene.tool()[2] - scene.cubes()[goal.target, 2] - CUBE_HALF
    return bool(scene.held() == goal.target and gap < _SEALED)


def _deliver(goal: Goal, scene: Scene) -> Float32[np.ndarray, "4"]:
    """Carry the held target over its spot, and put it down there."""
    there, cube, tool = spot(goal, scene), scene.cubes()[goal.target], scene.tool()
    sideways = there[:2] - cube[:2]
    error = np.linalg.norm(sideways)
    if error < _NEAR:
        return _put_down(scene, goal.target, sideways)
    low = tool[2] < _CARRY - _FAR and error > _FAR
    return _move(np.append(sideways * (0.0 if low else 1.0), _CARRY - tool[2]), suction=True)


def _put_down(scene: Scene, held: int, sideways: Float[np.ndarray, "2"] | None = None) -> Float32[np.ndarray, "4"]:
    """Lower the held cube to what is below it, and release it there."""
    cubes = scene.cubes()
    below = [
        cube[2] + CUBE_HALF
        for index, cube in enumerate(cubes)
        if index != held and np.abs(cube[:2] - cubes[held, :2]).max() < CUBE_EDGE and cube[2] < cubes[held, 2]
    ]
    drop = cubes[held, 2] - CUBE_HALF - max(below, default=0.0)
    if drop < 0.006:
        return _move(np.zeros(3), suction=False)
    return _move(np.append(np.zeros(2) if sideways is None else sideways, -drop), suction=True)
