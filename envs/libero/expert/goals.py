"""From a goal of LIBERO's to the skill that brings it about."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from envs.libero.expert import carry, fixtures, push
from envs.libero.expert.grasps import Way, hollow
from envs.libero.expert.hand import Action, move, rise, up
from envs.libero.expert.scene import Scene

Goal = tuple[str, ...]
"""A predicate and what it is about: `("in", "butter_1", "basket_1_contain_region")`."""
WayOf = Callable[[str, Float[np.ndarray, "3"] | None], Way]
"""How a thing is taken that goes to a place."""
_LEVEL = -0.96  # z of the palm's direction below which the hand points down
_OPENED = 0.13  # m, a drawer that things can be put into


def next_action(scene: Scene, goals: Sequence[Goal], way_of: WayOf) -> Action:
    """Do the first goal that is not reached yet; let go of what has been put down."""
    for goal in sorted(goals, key=_turn):
        owner = scene.layout.owner(goal[1])
        carried = goal[0] in ("in", "on") and scene.held(goal[1]) and not scene.rests(goal[1])
        if carried or not reached(scene, goal):
            return _pursue(scene, goal, way_of)
        if any(scene.touching(scene.layout.geoms[owner])) or scene.axes[2, 2] > _LEVEL:
            return leave(scene, owner)
    return rise(scene)


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
        held = all(scene.touching(scene.layout.geoms[thing]))
        return move(scene, hand, scene.closing, False) if held else rise(scene)
    palm = axes[:, 2]
    if scene.shutting:
        return move(scene, hand, axes[:, 0], False, palm=palm)
    if scene.blocked(hand + np.outer(np.linspace(0, 0.05, 3), palm), (), 0.03):
        return move(scene, hand - 0.06 * palm, axes[:, 0], False, palm=palm)
    return move(scene, hand + up(0.01), np.array([0.0, 1.0, 0.0]), False)


def _pursue(scene: Scene, goal: Goal, way_of: WayOf) -> Action:
    match goal:
        case ("open", place):
            return fixtures.pull(scene, _joint(scene, goal, place))
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
    joint = scene.layout.joint(place)
    if "cabinet" in owner and joint is not None and not scene.held(thing) and abs(fixtures.value(scene, joint)) < _OPENED:
        return fixtures.pull(scene, joint)
    if scene.axes[2, 2] > _LEVEL and not scene.held(thing):
        return leave(scene, owner)
    spot, support = _spot(scene, place)
    if "plate" in thing and place != owner:
        return push.drag(scene, thing, spot)
    basket = "basket" in owner
    if not scene.held(thing):
        if basket and _inside(scene, thing, owner, spot):
            return rise(scene)
        if not basket and scene.begun and carry.placed(scene, thing, spot, support):
            return move(scene, scene.hand, scene.closing, False)
        return carry.pick(scene, thing, way_of(thing, np.append(spot, scene.box(owner)[1][2] - 0.03 if basket else support)))
    if basket:
        return carry.drop_into(scene, thing, owner, spot)
    return carry.place(scene, thing, spot, support, over=(place,) if place == owner and hollow(place) else ())


def _inside(scene: Scene, thing: str, basket: str, spot: Float[np.ndarray, "2"]) -> bool:
    """Whether a thing lies or falls in a basket."""
    low = scene.box(thing)[0][2]
    return bool(np.linalg.norm(scene.position(thing)[:2] - spot) < 0.05 and low < scene.box(basket)[1][2] + 0.02)


def _spot(scene: Scene, place: str) -> tuple[Float[np.ndarray, "2"], float]:
    """Where a thing shall be put (m, x and y), and the height of what it comes to lie on."""
    if place not in scene.layout.bodies:
        region = scene.region(place)
        return region[:2], float(region[2])
    low, high = scene.box(place)
    return scene.position(place)[:2], float(low[2] + 0.012 if "bowl" in place else high[2] - 0.008)
