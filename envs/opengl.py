"""An OpenGL context that MuJoCo draws in, with one model's meshes and textures in it.

`mujoco.Renderer` frees its context before what lies in it, which spoils the pictures of others in the process; gymnasium draws in
whatever context is current. Here there is one for each model that is drawn, made current for every picture.
"""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary, finalize

import mujoco
import numpy as np
from jaxtyping import UInt8

_BACKENDS = ("egl", "osmesa", "glfw")


class Canvas:
    """A context, the model's textures in it, and a list of what to draw."""

    def __init__(
        self,
        model: Any,
        *,
        most_geometries: int,
        without: Sequence[str],
        hidden: Sequence[int] = (),
        around: Callable[[Any, Any, int, float], AbstractContextManager[None]] = lambda *_: nullcontext(),
    ) -> None:
        """Opens it.

        Args:
            model: An `mujoco.MjModel`; its `vis` says the size and quality of what is drawn.
            most_geometries: How many a scene may have.
            without: Effects that are left out, as MuJoCo names them (`SHADOW`, `REFLECTION`).
            hidden: Groups of geometries that are not drawn, besides those that MuJoCo leaves out.
            around: What is changed of model and data while MuJoCo lists what to draw for a camera, in a picture of an aspect.

        Raises:
            RuntimeError: OpenGL cannot be set up on this machine.
        """
        self._around = around
        self._gl, self._context = _open(model)
        self._list = mujoco.MjvScene(model, maxgeom=most_geometries)
        for effect in without:
            self._list.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{effect}")] = 0
        self._camera, self._options = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options.geomgroup[list(hidden)] = 0

    def draw(
        self, model: Any, data: Any, camera: int, height: int, width: int, *, prepare: Callable[[Any], None] = lambda scene: None
    ) -> UInt8[np.ndarray, "H W 3"]:
        """A picture, the first row on top.

        Args:
            model: That of the canvas, or another of the same meshes and textures.
            data: Its `mujoco.MjData`.
            camera: The number of a fixed camera.
            height: In pixels.
            width: In pixels.
            prepare: What is changed of MuJoCo's list of what to draw.
        """
        self._gl.make_current()  # another library, or another canvas, may have changed it
        self._camera.fixedcamid = camera
        with self._around(model, data, camera, width / height):
            mujoco.mjv_updateScene(model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._list)
        prepare(self._list)
        viewport, picture = mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, self._list, self._context)
        mujoco.mjr_readPixels(picture, None, viewport, self._context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL counts rows from below

    def close(self) -> None:
        """Frees what lies in the context before the context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


class Canvases:
    """Canvases by owner and name, of this process: a forked worker must not draw with its parent's context."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str], Canvas] = {}
        self._owned: WeakKeyDictionary[object, Canvases] = WeakKeyDictionary()

    def named(self, name: str, make: Callable[[], Canvas]) -> Canvas:
        """The one of this name, made now where there is none."""
        key = (os.getpid(), name)
        if key not in self._open:
            first, self._open[key] = not self._open, make()
            if first:
                atexit.register(self.close)  # only now, to run before the backend's own exit handler
        return self._open[key]

    def of(self, owner: object) -> "Canvases":
        """Those of an owner, which are freed with it: nothing of its model is drawn any more."""
        if owner not in self._owned:
            self._owned[owner] = Canvases()
            finalize(owner, self._owned[owner].free).atexit = False  # which comes too late
        return self._owned[owner]

    def close(self) -> None:
        """Free the contexts while OpenGL is still there: the interpreter's own order ends in EGL errors."""
        for key in [key for key in self._open if key[0] == os.getpid()]:
            self._open.pop(key).close()

    def free(self) -> None:
        """The same, earlier; a parent's contexts are left to it."""
        self.close()
        atexit.unregister(self.close)
        if self._open:
            _parents.append(self)


_parents: list[Canvases] = []
"""What a forked process must not free."""


def _open(model: Any) -> tuple[Any, mujoco.MjrContext]:
    """The backend's OpenGL context, and MuJoCo's with the model's meshes in it."""
    backend = os.environ.setdefault("MUJOCO_GL", "egl").lower()
    if backend not in _BACKENDS:
        raise RuntimeError(f"MUJOCO_GL={backend!r} cannot draw: choose from {', '.join(_BACKENDS)}, or unset it to get egl")
    # Mesa's software renderer: worker threads cost more than they save on small pictures, and do not survive a fork.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        kind = import_module(f"mujoco.{backend}").GLContext
        kind._context = None  # the destructor asks for it, also after a constructor that failed
        gl = kind(int(model.vis.global_.offwidth), int(model.vis.global_.offheight))
        gl.make_current()
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    except Exception as error:  # each layer (ctypes, PyOpenGL, MuJoCo) fails with a type of its own
        raise RuntimeError(
            f"cannot draw: no OpenGL context with MUJOCO_GL={backend} ({type(error).__name__}); on Debian or Ubuntu "
            "install the software renderer: apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
        ) from None
    return gl, context
