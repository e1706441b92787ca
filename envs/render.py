"""Pictures of the tabletop: one OpenGL context per process for all environments, cameras and sizes.

Several MuJoCo renderers in one process silently give wrong frames (they leave the wrong context current, or free a live
one); here there is nothing to confuse.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from envs.opengl import Canvas, Canvases
from envs.scene import COLOURS, Scene, camera_id, model

_STILL = np.zeros(3)
_EFFECTS = ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE")


def max_size() -> tuple[int, int]:
    """The largest picture: (height, width) in pixels."""
    return int(model().vis.global_.offheight), int(model().vis.global_.offwidth)


def frame(
    scene: Scene, camera: str, height: int, width: int, *, moved: Float64[np.ndarray, "3"] = _STILL
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of the scene: a pure function of its state, whatever else was drawn in this process.

    Args:
        scene: What to draw.
        camera: A name of `envs.scene.camera_names`.
        height: In pixels, at most `max_size`.
        width: In pixels, at most `max_size`.
        moved: How far the camera stands from its place, in m, table frame; it looks in the old direction.

    Raises:
        ValueError: If the camera is unknown or the size is too large.
        RuntimeError: If OpenGL cannot be set up on this machine.
    """
    check_size(camera, height, width)
    canvas = _canvases.named("tabletop", lambda: Canvas(model(), most_geometries=100, without=_EFFECTS))
    for index, colour in enumerate(scene.colours):  # the model is shared: a scene lends it its colours
        model().geom(f"cube{index}").rgba[:3] = COLOURS[colour]

    def shifted(drawn: Any) -> None:
        for eye in drawn.camera:  # left and right, which are one
            eye.pos += moved

    return canvas.draw(model(), scene.data, camera_id(camera), height, width, prepare=shifted)


def check_size(camera: str, height: int, width: int) -> None:
    """Refuse a picture size that the offscreen buffer cannot hold.

    Raises:
        ValueError: If a side is not positive or larger than `max_size`.
    """
    if not (0 < height <= max_size()[0] and 0 < width <= max_size()[1]):
        raise ValueError(f"camera {camera!r}: size {height} x {width} must lie between 1 x 1 and {max_size()} pixels")


_canvases = Canvases()
