"""Where a thing is taken from above: one way for all episodes of a task, so that those who watch see one way.

A way is an angle and, for hollow things, a side of the rim, or a part of a thing that is too wide. It is chosen once over the
stored starts; where exactly the hand goes is a continuous function of where the thing is now.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from envs.libero.expert.hand import up
from envs.libero.expert.scene import Scene

HOLLOW = ("bowl", "ramekin", "mug", "plate")
"""Things that are taken by their rim."""
_WIDEST = 0.072  # m, what the open fingers (0.077 apart) can still take
_ANGLES = np.deg2rad([0, 15, -15, 30, -30, 45, -45, 60, -60, 75, -75, 90])
_TALL = 0.05  # m
_THIN = 0.05  # m, widest part that is taken for a thing that is too wide
_LEVER = 100.0  # weight of a part's distance from the centre of mass, 1/m
_SLACK = 60.0  # weight of the width between the fingers, 1/m: what is narrow may be missed by more
_ROOM = 0.2  # weight of points that are less than 2 cm from things
_NEAREST, _FARTHEST = 0.45, 0.73  # m from the arm's base: comfortable reach of a hand that points down


def _grid(closing: Sequence[float], across: Sequence[float], up: Sequence[float]) -> Float[np.ndarray, "_ 3"]:
    return np.stack(np.meshgrid(closing, across, up, indexing="ij"), -1).reshape(-1, 3)


_FINGERS = [_grid([s * 0.034, s * 0.050, s * 0.066], [-0.011, 0, 0.011], [-0.012, 0.01, 0.03, 0.05]) for s in (-1, 1)]
_PALM = _grid(list(np.linspace(-0.10, 0.10, 9)), [-0.03, 0, 0.03], [0.035, 0.07, 0.12])
_FLANGE = _grid([-0.045, 0, 0.045], [-0.045, 0, 0.045], [0.15, 0.18, 0.22])
_HULL = np.concatenate([*_FINGERS, _PALM, _FLANGE])  # points of the open hand: along closing, across, up from the grip site, m


@dataclass(frozen=True)
class Way:
    """How a thing is taken.

    Args:
        angle: Of the closing direction from the world's y towards x, rad.
        side: Of the rim along the closing direction, -1 or 1; 0 takes the whole thing, or a part of it.
        part: The geom that is taken, such as a lid's knob; then `angle` is where its thin axis was, and the hand follows it.
        opening: How far the drawer that the thing goes into is opened before, at least, m.
    """

    angle: float
    side: int = 0
    part: int | None = None
    opening: float = 0.0


def hollow(thing: str) -> bool:
    """Whether a thing is taken by its rim."""
    return any(word in thing for word in HOLLOW)


def closing_of(scene: Scene, way: Way) -> Float[np.ndarray, "3"]:
    """Direction (unit vector, world) in which the fingers close."""
    closing = np.array([np.sin(way.angle), np.cos(way.angle), 0.0])
    if way.part is None:
        return closing
    axis = min(scene.level_axes(way.part), key=lambda axis: 1 - abs(float(axis @ closing)), default=closing)
    return axis * np.sign(axis @ closing)


def grip_point(scene: Scene, thing: str, way: Way) -> Float[np.ndarray, "3"]:
    """Where the grip site shall be (m, world) when the fingers close."""
    if way.part is not None:
        corners = scene.corners(np.array([way.part]))[0]
        low, high = corners.min(0), corners.max(0)
        return np.append((low + high)[:2] / 2, max(high[2] - 0.014, low[2] + 0.011))
    points, closing = scene.points(thing), closing_of(scene, way)
    low, high = points.min(0), points.max(0)
    if hollow(thing):
        middle, radius = _rim(points, way.side * closing)
        return np.append((middle + way.side * closing * (radius - 0.006))[:2], max(high[2] - 0.016, low[2] + 0.011))
    along = points @ closing
    middle = (low + high) / 2
    middle = middle + closing * ((along.max() + along.min()) / 2 - middle @ closing)
    height = high[2] - low[2]
    z = min(middle[2], high[2] - 0.020) if height < _TALL else high[2] - 0.028
    return np.append(middle[:2], max(z, low[2] + 0.012))


def choose(starts: Sequence[Scene], thing: str, target: Callable[[Scene], Float[np.ndarray, "3"]]) -> tuple[Way, float]:
    """The way that serves best over all the starts, and how bad it is.

    Args:
        starts: Scenes that an episode may begin with.
        thing: What is taken.
        target: Where its origin goes, with the height of what it comes to lie on, m.
    """
    options = _ways(starts[0], thing)
    costs = [[_cost(scene, thing, way, target(scene)) for way in options] for scene in starts]
    means = np.mean(costs, axis=0)
    return options[int(np.argmin(means))], float(means.min())


def _ways(scene: Scene, thing: str) -> list[Way]:
    """All ways that are weighed: by the rim, as a whole, or by a part where the whole is too wide."""
    if hollow(thing):
        return [Way(float(angle), side) for angle in _ANGLES for side in (-1, 1)]
    whole = [way for way in map(Way, map(float, _ANGLES)) if _width(scene, thing, way) < _WIDEST]
    return whole or [
        Way(float(np.arctan2(axis[0], axis[1])), part=int(geom))
        for geom in scene.layout.geoms[thing]
        for axis in scene.level_axes(int(geom))
        if np.ptp(scene.corners(np.array([geom]))[0] @ axis) < _THIN
    ]


def _width(scene: Scene, thing: str, way: Way) -> float:
    """Extent (m) of a thing along the closing direction."""
    return float(np.ptp(scene.points(thing) @ closing_of(scene, way)))


def _rim(points: Float[np.ndarray, "P 3"], outwards: Float[np.ndarray, "3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Middle (m) of the upper edge, and its radius (m) in a direction; a handle is lower than that."""
    low, high = points.min(0), points.max(0)
    edge = points[points[:, 2] > high[2] - 0.2 * (high[2] - low[2])]
    middle = (edge.min(0) + edge.max(0)) / 2
    return middle, float(((edge - middle) @ outwards).max())


def _cost(scene: Scene, thing: str, way: Way, target: Float[np.ndarray, "3"]) -> float:
    """How bad a way is: turned hands, points of the hand inside things, an arm that is stretched or folded, a lever."""
    point, closing = grip_point(scene, thing, way), closing_of(scene, way)
    hull = _HULL @ np.stack([closing, [closing[1], -closing[0], 0.0], [0.0, 0.0, 1.0]])
    cost = 0.5 * abs(way.angle) + scene.blocked(point + hull, (thing,)) + scene.blocked(point + up(0.09) + hull, (thing,))
    cost += _ROOM * scene.blocked(point + hull, (thing,), 0.020)
    if way.part is not None:
        others = scene.layout.geoms[thing]
        cost += int(scene.inside(point + hull, others[others != way.part], 0.002).sum())
        cost += _LEVER * float(np.linalg.norm((point - scene.centre_of_mass(thing))[:2]))
    elif not hollow(thing):
        cost += _SLACK * _width(scene, thing, way)
    put = target + point - np.append(scene.position(thing)[:2], scene.box(thing)[0][2] - 0.01)
    cost += scene.blocked(put + hull, (thing,))
    if hollow(thing):
        reach = np.linalg.norm(np.array([point[:2], put[:2]]) - scene.layout.base, axis=1)
        cost += float((reach + 40 * np.clip(reach - _FARTHEST, 0, None) + 40 * np.clip(_NEAREST - reach, 0, None)).sum())
    return cost
