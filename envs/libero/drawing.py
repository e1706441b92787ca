"""How a LIBERO scene is drawn: as robosuite does it, or for half the cost."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from envs.libero.simulation import Simulation
from envs.libero.worlds import World
from envs.opengl import Canvas, Canvases

CAMERAS = ("agentview", "robot0_eye_in_hand")
_MOST_GEOMETRIES = 1000
_COLLISION = (0,)
"""The group of the shapes that collide, which robosuite does not show."""


@runtime_checkable
class Drawing(Protocol):
    """Opens the canvas on which a scene is drawn."""

    def __call__(self, model: Any) -> Canvas:
        """Of this `mujoco.MjModel`."""
        ...


@dataclass(frozen=True)
class Default:
    """As robosuite 1.4 draws by default, and with it the published numbers: shadows, reflections, multisampling."""

    def __call__(self, model: Any) -> Canvas:
        """As the scene says."""
        return Canvas(model, most_geometries=_MOST_GEOMETRIES, without=(), hidden=_COLLISION)


@dataclass(frozen=True)
class Fast:
    """Without shadows, reflections and multisampling; what lies beside the picture is not drawn either."""

    def __call__(self, model: Any) -> Canvas:
        """With the scene's quality as it was afterwards."""
        quality = model.vis.quality
        before, quality.offsamples = quality.offsamples, 0
        try:
            return Canvas(
                model,
                most_geometries=_MOST_GEOMETRIES,
                without=("SHADOW", "REFLECTION"),
                hidden=_COLLISION,
                around=_without_what_lies_beside,
            )
        finally:
            quality.offsamples = before


@contextmanager
def _without_what_lies_beside(model: Any, data: Any, camera: int, aspect: float) -> Iterator[None]:
    """Spares OpenGL the meshes that no pixel shows; without shadows and reflections the picture is the same."""
    before = model.geom_group.copy()
    model.geom_group[beside(model, data, camera, aspect)] = _COLLISION[0]
    try:
        yield
    finally:
        model.geom_group[:] = before


def beside(model: Any, data: Any, camera: int, aspect: float) -> Bool[np.ndarray, " G"]:
    """Which geometries lie wholly outside what a fixed camera sees: behind it, or beyond one of the picture's four sides.

    A geometry is taken for the sphere around it; planes, which have none, are seen by all.
    """
    frame = data.cam_xmat[camera].reshape(3, 3)
    right, up, back = ((data.geom_xpos - data.cam_xpos[camera]) @ frame).T
    radius, slope = model.geom_rbound, np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    outside = back > radius
    for along, tangent in ((right, slope * aspect), (-right, slope * aspect), (up, slope), (-up, slope)):
        outside |= along + tangent * back > radius * np.hypot(1, tangent)
    return outside & (radius > 0)


def check_size(simulation: Simulation, size: int) -> None:
    """Refuses a picture size that the scene's buffer cannot hold.

    Raises:
        ValueError: it is not positive, or too large.
    """
    most = min(simulation.model.vis.global_.offheight, simulation.model.vis.global_.offwidth)
    if not 0 < size <= most:
        raise ValueError(f"size={size}: pictures of LIBERO have 1 to {most} pixels a side.")


def picture(simulation: Simulation, camera: str, size: int, drawing: Drawing) -> UInt8[np.ndarray, "H W 3"]:
    """What a camera sees now, upside down as robosuite gives it: a pure function of the simulation's state.

    Raises:
        ValueError: there is no such camera.
        RuntimeError: OpenGL cannot be set up on this machine.
    """
    model = simulation.model
    names = [model.camera(number).name for number in range(model.ncam)]
    if camera not in names:
        raise ValueError(f"LIBERO has no camera {camera!r}; it has {', '.join(names)}.")
    canvas = _canvas(simulation.world, drawing)
    return np.ascontiguousarray(canvas.draw(model, simulation.data, names.index(camera), size, size)[::-1])


_canvases = Canvases()


def _canvas(world: World, drawing: Drawing) -> Canvas:
    """One for all simulations of a task, freed with its world."""
    return _canvases.of(world).named(repr(drawing), lambda: drawing(world.model))
