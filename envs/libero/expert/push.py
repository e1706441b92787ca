"""Dragging flat things over the table."""

import numpy as np
from jaxtyping import Float

from envs.libero.expert.hand import Action, move
from envs.libero.expert.scene import Scene

_Y = np.array([0.0, 1.0, 0.0])


def drag(scene: Scene, thing: str, spot: Float[np.ndarray, "2"]) -> Action:
    """Drag a plate to a spot: closed fingers inside it, against its rim on the side where it shall go."""
    low, high = scene.box(thing)
    middle, radius, hand = ((low + high) / 2)[:2], (high - low)[:2].max() / 2, scene.hand
    ahead = (spot - middle) / max(float(np.linalg.norm(spot - middle)), 1e-6)
    left = np.array([-ahead[1], ahead[0]])
    off = hand[:2] - middle
    floor = low[2] + 0.010
    if hand[2] < floor + 0.012 and np.linalg.norm(off) < radius:
        return move(scene, np.append(hand[:2] + 0.03 * ahead - 0.7 * (off @ left) * left, floor), _Y, True)
    start = middle + (radius - 0.04) * ahead
    hover = max(scene.ceiling(hand, start, (), 0.04), high[2]) + 0.03
    if np.linalg.norm(start - hand[:2]) < 0.015:
        return move(scene, np.append(start, floor - 0.004), _Y, True)
    return move(scene, np.append(start if hand[2] > hover - 0.03 else hand[:2], hover), _Y, True)
