"""From a goal of LIBERO's to the skill that brings it about."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from envs.libero.expert import carry, fixtures, push
from envs.libero.expert.grasps import Way, hollow
from envs.libero.expert.hand import Action, move, rise, up
from envs.libero.expert.scene import Scene

Goal = tuple[str, ...]
"""A predicate and what it is about: `("in", "butter_1", "basket_1_contain_region")`."""
WayOf = Callable[[str, Callable[[Scene], Float[np.ndarray, "3"]], int | None], Way]
"""How a thing is taken that goes to a place (of a scene, m) after a drawer's joint has been opened."""
_FARTHER = 0.012  # m, by which a drawer is pulled farther than it must be open
_LEVEL = -0.96  # z of the palm's direction below which the hand points down


def next_action(scene: Scene, goals: Sequence[Goal], way_of: WayOf) -> Action:
    """Do the first goal that is not reached yet; let go of what has been put down."""
    for goal in sorted(goals, key=_turn):
        if _carried(scene, goal) or not reached(scene, goal):
            return _pursue(scene, goal, way_of)
        owner = scene.layout.owner(goal[1])
        if any(scene.touching(scene.layout.geoms[owner])) or scene.axes[2, 2] > _LEVEL or _lets_go(scene, goal):
            return leave(scene, owner)
    return rise(scene)


def _carried(scene: Scene, goal: Goal) -> bool:
    """Whether a thing is where it shall be, but still in the air, or not yet low in a drawer."""
    if goal[0] not in ("in", "on") or not scene.held(goal[1]):
        return False
    return not scene.rests(goal[1]) or (scene.layout.joint(goal[2]) is not None and "cabinet" in goal[2])


def _lets_go(scene: Scene, goal: Goal) -> bool:
    """Whether the fingers are still opening around what has been put down."""
    if goal[0] not in ("in", "on") or not scene.begun:
        return False
    off = scene.hand - scene.position(goal[1])
    return bool(np.linalg.norm(off[:2]) < 0.07 and scene.hand[2] < scene.box(goal[1])[1][2] + 0.03)


def _turn(goal: Goal) -> int:
    """What is opened is opened first, what is closed last; else in the order of the task."""
    return {"open": 0, "close": 2}.get(goal[0], 1)


def reached(scene: Scene, goal: Goal) -> bool:
    """Whether LIBERO's predicate holds now."""
    return bool(scene.problem._eval_predicate(list(goal)))  # noqa: SLF001


def leave(scene: Scene, thing: str) -> Action:
    """Let go, and draw the hand back along its own axis; upright again when it is clear."""
    axes, hand = scene.axes, scene.hand
    if axes[2, 2] < _LEVEL:
        holds = all(scene.touching(scene.layout.geoms[thing])) or scene.begun
        return move(scene, hand, scene.closing, False) if holds else rise(scene)
    palm = axes[:, 2]
    if scene.shutting:
        return move(scene, hand, axes[:, 0], False, palm=palm)
    if scene.blocked(hand + np.outer(np.linspace(0, 0.05, 3), palm), (), 0.03):
        return move(scene, hand - 0.06 * palm, axes[:, 0], False, palm=palm)
    return move(scene, hand + up(0.01), np.array([0.0, 1.0, 0.0]), False)


def _pursue(scene: Scene, goal: Goal, way_of: WayOf) -> Action:
    match goal:
        case ("open", place):
            if not fixtures.slides(scene, joint := _joint(scene, goal, place)):
                raise ValueError(f"the expert cannot do {goal}: it opens drawers, and closes doors, but opens none.")
            return fixtures.pull(scene, joint)
        case ("close", place):
            return fixtures.push_shut(scene, _joint(scene, goal, place))
        case ("turnon", place):
            return fixtures.turn_knob(scene, _joint(scene, goal, place), 1)
        case ("turnoff", place):
            return fixtures.turn_knob(scene, _joint(scene, goal, place), -1)
        case ("in" | "on", thing, place):
            return _put(scene, thing, place, way_of)
    raise ValueError(f"the expert has no skill for the goal {goal}; it knows in, on, open, close, turnon and turnoff.")


def _joint(scene: Scene, goal: Goal, place: str) -> int:
    if (joint := scene.layout.joint(place)) is None:
        raise ValueError(f"the expert cannot do {goal}: {place} has no joint.")
    return joint


def _put(scene: Scene, thing: str, place: str, way_of: WayOf) -> Action:
    owner = scene.layout.owner(place)
    joint = scene.layout.joint(place) if "cabinet" in owner else None
    if joint is not None and not scene.held(thing):
        way = way_of(thing, partial(_target, thing, place), joint)
        pulling = all(scene.touching(fixtures.moving(scene, joint)))
        if abs(fixtures.value(scene, joint)) < way.opening + (_FARTHER if pulling else 0.0):
            return fixtures.pull(scene, joint)
    if scene.axes[2, 2] > _LEVEL and not scene.held(thing):
        return leave(scene, owner)
    spot, support = _spot(scene, thing, place)
    if "plate" in thing and place != owner:
        return push.drag(scene, thing, spot)
    basket = "basket" in owner
    if not scene.held(thing):
        if basket and _inside(scene, thing, owner, spot):
            return rise(scene)
        if not basket and scene.begun and carry.placed(scene, thing, spot, support):
            return move(scene, scene.hand, scene.closing, False)
        return carry.pick(scene, thing, way_of(thing, partial(_target, thing, place), joint))
    if basket:
        return carry.drop_into(scene, thing, owner, spot)
    return carry.place(scene, thing, spot, support, over=(place,) if place == owner and hollow(place) else ())


def _inside(scene: Scene, thing: str, basket: str, spot: Float[np.ndarray, "2"]) -> bool:
    """Whether a thing lies or falls in a basket."""
    low = scene.box(thing)[0][2]
    return bool(np.linalg.norm(scene.position(thing)[:2] - spot) < 0.05 and low < scene.box(basket)[1][2] + 0.02)


def _target(thing: str, place: str, scene: Scene) -> Float[np.ndarray, "3"]:
    """Where the lowest point of a thing comes to be, m: for a basket, near its rim."""
    spot, support = _spot(scene, thing, place)
    owner = scene.layout.owner(place)
    return np.append(spot, scene.box(owner)[1][2] - 0.03 if "basket" in owner else support)


def _spot(scene: Scene, thing: str, place: str) -> tuple[Float[np.ndarray, "2"], float]:
    """Where a thing shall be put (m, x and y), and the height of what it comes to lie on."""
    if place not in scene.layout.bodies:
        joint, owner = scene.layout.joint(place), scene.layout.owner(place)
        region = fixtures.room(scene, joint, place, owner) if joint is not None and "cabinet" in owner else scene.region(place)
        return region[:2], float(region[2])
    low, high = scene.box(place)
    if "bowl" not in place:
        return scene.position(place)[:2], float(high[2] - 0.008)
    inside = low[2] + 0.012
    off = scene.hand - scene.position(thing)
    if not hollow(thing) and np.linalg.norm(off) < 0.05:  # fingers around it stay above the rim
        inside = max(inside, high[2] + 0.018 - (scene.hand[2] - scene.box(thing)[0][2]))
    return scene.position(place)[:2], float(inside)
