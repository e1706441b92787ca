"""A task of Meta-World that follows from its seed, sees its goal, and is drawn only when somebody looks."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any
from weakref import WeakValueDictionary

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from envs.meta_world.package import imported, sentences
from envs.opengl import Canvas, Canvases

CONTROL_HZ = 80
_MOST_GEOMETRIES = 1_000


class MetaWorld(gymnasium.Env[Float64[np.ndarray, "39"], Float32[np.ndarray, "4"]]):
    """A task as Meta-World's class simulates it: the same physics, observations, rewards and successes.

    What it shows is Meta-World's: place of the hand (m), opening of the gripper (0 to 1), objects, the same a step before, and the
    goal, which the task's scripted policy reads. An action is three shares of 1 cm and the gripper's effort, of -1 (open) to 1.
    `info["success"]` is told at every step. Unlike the class, it takes the seed from `reset(seed=...)`, and its first picture shows
    things where they are: there, 29 of the 50 tasks show them where they were before, by 1 to 20 cm.

    Args:
        task: One of the fifty, such as `drawer-open-v3`.
        camera: Of Meta-World's: topview, corner, corner2, corner3, behindGripper, gripperPOV.
        place: Where it stands instead, in m.
        height: Of a picture, in pixels, at most 480.
        width: At most 640.
        shadow_map: Side of the shadow map, in pixels: 4096 is Meta-World's, at 12 times the cost of a picture without shadows.
        samples: Of a pixel: Meta-World has 4, 0 is one.
        without: Effects that are not drawn, as MuJoCo names them.

    Raises:
        ValueError: there is no such task or camera, the picture is too large, or the extra is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ, "control_hz": CONTROL_HZ}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        task: str,
        *,
        camera: str = "corner2",
        place: Sequence[float] | None = None,
        height: int = 128,
        width: int = 128,
        shadow_map: int = 4096,
        samples: int = 4,
        without: Sequence[str] = (),
    ) -> None:
        self.task, self.render_mode = task, "rgb_array"
        self.simulation = _made(task)
        self.observation_space, self.action_space = self.simulation.sawyer_observation_space, self.simulation.action_space
        self.instruction = sentences()[task]
        model = self.simulation.model
        self._camera, self._size = _camera(model, camera), _checked(model, height, width)
        if place is not None:
            model.cam_pos[self._camera] = place
        model.vis.quality.shadowsize, model.vis.quality.offsamples = shadow_map, samples
        self._without = tuple(without)
        self._easel: _Easel | None = _easel(f"{task} {shadow_map} {samples} {' '.join(without)}")
        self.seen = np.zeros(self.observation_space.shape or ())
        """What was shown last."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float64[np.ndarray, "39"], dict[str, Any]]:
        """Draws where things and the goal are."""
        super().reset(seed=seed)
        if seed is not None:
            self.simulation.seed(seed)
        self.seen, info = self.simulation.reset()
        mujoco.mj_kinematics(self.simulation.model, self.simulation.data)  # for pictures alone: what follows is the same
        mujoco.mj_comPos(self.simulation.model, self.simulation.data)
        mujoco.mj_camlight(self.simulation.model, self.simulation.data)
        return self.seen.copy(), {**info, "success": False}

    def step(self, action: Float32[np.ndarray, "4"]) -> tuple[Float64[np.ndarray, "39"], float, bool, bool, dict[str, Any]]:
        """Steps for 1/80 s; after 500 steps it must be reset."""
        self.seen, reward, terminated, truncated, info = self.simulation.step(action)
        return self.seen.copy(), float(reward), terminated, truncated, {**info, "success": bool(info["success"])}

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """The camera's picture; that of corner2 is turned by 180 degrees, as Meta-World has it."""
        model, easel = self.simulation.model, self._easel
        if easel is None:
            raise RuntimeError(f"{self.task} is closed: nothing is drawn any more.")
        canvas = easel.canvases.named("", lambda: Canvas(model, most_geometries=_MOST_GEOMETRIES, without=self._without))
        return canvas.draw(model, self.simulation.data, self._camera, *self._size)

    def close(self) -> None:
        """Frees what it draws with, unless other environments of the task draw with it."""
        self._easel = None
        self.simulation.close()


class _Easel:
    """What environments of a task draw with that are drawn alike; the canvas is freed with it."""

    @property
    def canvases(self) -> Canvases:
        return _canvases.of(self)


_canvases = Canvases()
_easels: WeakValueDictionary[str, _Easel] = WeakValueDictionary()


def _easel(name: str) -> _Easel:
    if (there := _easels.get(name)) is None:
        there = _easels[name] = _Easel()
    return there


def _made(task: str) -> Any:
    """The simulation, with a start drawn from its seed at every reset, and the goal in what it shows."""
    classes = imported("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    if task not in classes:
        near = get_close_matches(task, classes, n=3) or sorted(classes)
        raise ValueError(f"Meta-World has no task {task!r}; it has {', '.join(near)} (env.tasks lists all {len(classes)}).")
    made = classes[task]()
    made._set_task_called, made._freeze_rand_vec, made.seeded_rand_vec = True, False, True
    made._partially_observable = False
    vars(made).pop("sawyer_observation_space", None)  # kept from before, it would clip the goal to 0
    return made


def _camera(model: Any, name: str) -> int:
    names = [model.cam(number).name for number in range(model.ncam)]
    if name not in names:
        raise ValueError(f"Meta-World has no camera {name!r}; it has {', '.join(names)}.")
    return names.index(name)


def _checked(model: Any, height: int, width: int) -> tuple[int, int]:
    most = int(model.vis.global_.offheight), int(model.vis.global_.offwidth)
    if not (0 < height <= most[0] and 0 < width <= most[1]):
        raise ValueError(f"a picture of {height} x {width} pixels: Meta-World draws at most {most[0]} x {most[1]}.")
    return height, width
