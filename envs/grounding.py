"""Random pictures of the tabletop with the answer to "what is where": supervision for a vision tower that starts from nothing."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from envs.render import frame
from envs.scene import COLOURS, CUBE_EDGE, CUBES, TOOL_HIGH, TOOL_LOW, Scene

OBJECTS = (*COLOURS, "tool")
_CUBE_AREA = np.array([0.21, 0.19])  # m, |x| and |y| of cube centres: further out than a task starts, as far as a push ends


@dataclass(frozen=True)
class Pictures:
    """Images of random scenes and where each of `OBJECTS` is in them.

    Attributes:
        images: Front camera.
        present: Whether the object is in the scene (three of the four cubes are, and the tool).
        pixels: (u, v) of the object's centre in the image, pixels.
        positions: (x, y) of the object's centre on the table, m.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    present: Bool[np.ndarray, "B N"]
    pixels: Float[np.ndarray, "B N 2"]
    positions: Float[np.ndarray, "B N 2"]


def pictures(scene: Scene, rng: np.random.Generator, *, batch: int, height: int, width: int) -> Pictures:
    """`batch` pictures of random scenes: cubes anywhere, sometimes one in the air; the tool often near a cube."""
    rows = [_picture(scene, rng, height, width) for _ in range(batch)]
    return Pictures(*(np.stack(column) for column in zip(*rows, strict=True)))


def _picture(scene: Scene, rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, ...]:
    _scatter(scene, rng)
    places = dict(zip(scene.colours, scene.cubes(), strict=True)) | {"tool": scene.tool()}
    points = np.stack([places.get(name, np.zeros(3)) for name in OBJECTS])
    present = np.array([name in places for name in OBJECTS])
    image = frame(scene, "front", height, width)
    return image, present, scene.project(points, "front", height, width), points[:, :2]


def _scatter(scene: Scene, rng: np.random.Generator) -> None:
    colours = tuple(str(name) for name in rng.permutation(list(COLOURS))[:CUBES])
    cubes = _apart(rng)
    near = cubes[rng.integers(CUBES)] + rng.normal(0, 0.04, 2)
    tool = np.array([*near, rng.uniform(0.01, 0.12)]) if rng.random() < 0.5 else rng.uniform(TOOL_LOW, TOOL_HIGH)
    tool = np.clip(tool, TOOL_LOW, TOOL_HIGH)
    held = int(rng.integers(CUBES)) if rng.random() < 0.1 else None
    if held is not None:
        tool = np.array([*(cubes[held] + rng.normal(0, 0.006, 2)), rng.uniform(CUBE_EDGE, TOOL_HIGH[2])])
    scene.place(cubes, rng.uniform(-0.5, 0.5, CUBES), tool, colours)
    if held is not None:
        scene.raise_cube(held, height=float(tool[2] - CUBE_EDGE / 2))


def _apart(rng: np.random.Generator) -> Float[np.ndarray, "3 2"]:
    """Cube centres at least 4.5 cm from each other, m."""
    while True:
        centres = rng.uniform(-_CUBE_AREA, _CUBE_AREA, (CUBES, 2))
        if (np.linalg.norm(centres[:, None] - centres, axis=-1) + np.eye(CUBES)).min() > 0.045:
            return centres
