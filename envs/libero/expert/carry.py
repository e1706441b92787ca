"""Taking things from above and putting them down."""

import numpy as np
from jaxtyping import Float

from envs.libero.expert.grasps import Way, closing_of, grip_point
from envs.libero.expert.hand import SLOPE, TURNED, Action, eased, grips, move, off_turn, up
from envs.libero.expert.scene import Scene

_ABOVE = 0.05  # m, between a thing's top and the finger tips on the way there
_PALM = 0.12  # m, within which of its axis the palm, 3 cm above the fingers, may meet things
_BELOW = 0.03  # m, between what is carried and the highest thing on the way


def pick(scene: Scene, thing: str, way: Way) -> Action:
    """Go above the thing, down, and close; the nearer to its axis, the lower."""
    point, hand, closing = grip_point(scene, thing, way), scene.hand, closing_of(scene, way)
    side, turn = float(np.linalg.norm((point - hand)[:2])), off_turn(scene, closing)
    if grips(scene, side, turn, hand[2] - point[2]):
        return move(scene, point, closing, True)
    if scene.begun and side < SLOPE[1]:  # closed on nothing: up and open again
        return move(scene, hand + up(0.03), closing, False)
    aside = max(eased(side, *SLOPE), eased(turn, *TURNED))
    top = scene.box(thing)[1][2]
    hover = max(
        scene.ceiling(hand, point, (thing,), 0.07) + _ABOVE, scene.ceiling(hand, point, (thing,), _PALM) + 0.01, top + _ABOVE
    )
    if hand[2] < hover - 0.03 and side > SLOPE[1]:
        return _out_of_the_way(scene, point, hover, closing)
    low = max(top, scene.ceiling(point, point, (thing,), 0.02)) + _ABOVE if aside < 1 else hover
    return move(scene, np.append(point[:2], point[2] + aside * (max(low, point[2]) - point[2])), closing, False)


def _out_of_the_way(scene: Scene, point: Float[np.ndarray, "3"], hover: float, closing: Float[np.ndarray, "3"]) -> Action:
    """Rise first, and sideways already where nothing is as high as the fingers."""
    hand = scene.hand
    free = scene.ceiling(hand, point, (), 0.09) < hand[2] - 0.03
    return move(scene, np.append(point[:2] if free else hand[:2], hover), closing if free else scene.closing, False)


def place(scene: Scene, thing: str, spot: Float[np.ndarray, "2"], support: float, *, over: tuple[str, ...] = ()) -> Action:
    """Carry what is held over a spot, lower it, and open when it stands.

    Args:
        scene: The present.
        thing: What is held.
        spot: Where its origin goes, m.
        support: Height of what it comes to lie on, m.
        over: Things that may be below it.
    """
    side = spot - scene.position(thing)[:2]
    away, low = float(np.linalg.norm(side)), scene.box(thing)[0][2]
    if placed(scene, thing, spot, support):
        return move(scene, scene.hand, scene.closing, False)
    lowered = support - 0.006
    hover = max(scene.ceiling(spot - side, spot, (thing, *over), 0.06), support) + _BELOW
    aim = lowered + eased(away, *SLOPE) * (hover - lowered)
    return _carry(scene, thing, side, aim - low, speed=1.0 if away > SLOPE[1] else 0.6)


def placed(scene: Scene, thing: str, spot: Float[np.ndarray, "2"], support: float) -> bool:
    """Whether a thing stands on its spot, or hangs so low above it that it can be let go."""
    away, low = float(np.linalg.norm(spot - scene.position(thing)[:2])), scene.box(thing)[0][2]
    return away < 0.020 and (low < support + 0.004 or (low < support + 0.016 and scene.rests(thing)))


def drop_into(scene: Scene, thing: str, container: str, spot: Float[np.ndarray, "2"]) -> Action:
    """Carry what is held over a container, and let it go when the fingers are close above its rim."""
    low, high = scene.box(thing)
    rim, hand = scene.box(container)[1][2], scene.hand
    side = spot - ((low + high) / 2)[:2]
    away = float(np.linalg.norm(side))
    if away < 0.020 and (hand[2] < rim - 0.02 or low[2] < rim - 0.09):
        return move(scene, hand, scene.closing, False)
    over = scene.ceiling((low + high) / 2, spot, (thing,), 0.07) + 0.025 - low[2]
    if away < 0.020:
        return _carry(scene, thing, side, -0.05)
    return _carry(scene, thing, side, over)


def _carry(scene: Scene, thing: str, side: Float[np.ndarray, "2"], lift: float, speed: float = 1.0) -> Action:
    """Move what is held; the farther below its height, the less sideways, and out from under things first."""
    if lift > 0 and (out := scene.out_from_under(thing)) is not None:
        return move(scene, scene.hand + 0.03 * out + up(0.004), scene.closing, True, speed=speed)
    level = 1.0 - eased(lift, 0.02, 0.06)
    return move(scene, scene.hand + np.append(level * side, max(lift, -0.05)), scene.closing, True, speed=speed)
