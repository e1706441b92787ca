"""Scenes of tasks as robosuite builds them: once for each task and process, however many environments act in it."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

import gc
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from jaxtyping import Float64

from envs.libero.controller import Controller
from envs.libero.package import imported, quiet
from envs.libero.suites import Task, task_of

JOINT_NOISE = 0.02
"""rad, by which the joints of the arm are off in stored starts (robosuite's default)."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the things stand that have no joint, such as cabinets: MuJoCo has them in the model, not in its state."""

    positions: Float64[np.ndarray, "n 3"]
    quaternions: Float64[np.ndarray, "n 4"]


class World:
    """A task's model, and robosuite's environment around it, which any number of simulations lend their data in turn.

    Building one takes 3 to 4 s of CPU and most of the 1.7 to 2.5 GB of a first environment.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        with quiet(), _draws(np.random.default_rng(0)):
            self.problem: Any = _problem(task)
            self.problem.visualize(dict.fromkeys(("env", "robots", "grippers"), False))
        self.model: mujoco.MjModel = self.problem.sim.model._model
        self._own: mujoco.MjData = self.problem.sim.data._data
        self._built = self.problem.robots[0].controller  # a draw makes it anew
        self._fixtures, self._described = _fixtures(self.problem, self.model)
        self.placement = self._placed()

    def lend(self, data: mujoco.MjData, placement: Placement) -> None:
        """Lets robosuite's environment read and write these data, stands its fixtures there, and lights its stoves accordingly."""
        self.model.body_pos[self._fixtures] = placement.positions
        self.model.body_quat[self._fixtures] = placement.quaternions
        if self.problem.sim.data._data is not data:
            self.problem.sim.data._data = data
            self.problem._post_process()

    def controller(self) -> Controller:
        """A controller of the arm and the gripper, for one simulation."""
        return Controller(self.problem.robots[0], self._built, self.model)

    def draw(self, rng: np.random.Generator) -> tuple[Float64[np.ndarray, " S"], Placement]:
        """A start by the problem's own samplers, with noise on the arm's joints as the stored starts have it.

        Raises:
            RuntimeError: things found no room in many draws.
        """
        with _draws(rng):
            for _ in range(_TRIES):
                self.lend(self._own, self._described)
                mujoco.mj_resetData(self.model, self._own)
                try:
                    self.problem._reset_internal()
                except _no_room():
                    continue
                break
            else:
                raise RuntimeError(f"{self.task.suite} {self.task.index}: things found no room in {_TRIES} draws.")
        state = np.concatenate([[0.0], self._own.qpos, self._own.qvel])
        joints = [1 + self.model.joint(name).qposadr[0] for name in self.problem.robots[0].robot_model.joints]
        state[joints] += rng.normal(0.0, JOINT_NOISE, len(joints))
        return state, self._placed()

    def _placed(self) -> Placement:
        return Placement(
            positions=self.model.body_pos[self._fixtures].copy(), quaternions=self.model.body_quat[self._fixtures].copy()
        )


_TRIES = 100
_worlds: WeakValueDictionary[tuple[str, int], World] = WeakValueDictionary()
_last: deque[World] = deque(maxlen=1)  # the next environment is often of the same task


def world(suite: str, index: int) -> World:
    """The world of a task, built unless this process has it; the last one is kept when nobody acts in it any more.

    Raises:
        ValueError: there is no such task; see `envs.libero.suites.task_of`.
    """
    if (there := _worlds.get((suite, index))) is None:
        task = task_of(suite, index)
        _last.clear()  # before the next is built: memory holds few
        gc.collect()
        there = _worlds[suite, index] = World(task)
    _last.append(there)
    return there


def _problem(task: Task) -> Any:
    """Robosuite's environment, without pictures and observations."""
    imported("libero.libero.envs")
    control = imported("libero.libero.envs.env_wrapper").ControlEnv
    return control(
        bddl_file_name=str(task.problem), use_camera_obs=False, has_renderer=False, has_offscreen_renderer=False, hard_reset=False
    ).env


def _fixtures(problem: Any, model: mujoco.MjModel) -> tuple[list[int], Placement]:
    """The bodies of fixtures, and where their description has them before they are placed."""
    bodies = {body.get("name"): body for body in problem.model.worldbody.iter("body")}
    names = [fixture.root_body for fixture in problem.fixtures if fixture.root_body in bodies]
    positions = [_floats(bodies[name].get("pos", "0 0 0")) for name in names]
    quaternions = [_floats(bodies[name].get("quat", "1 0 0 0")) for name in names]
    places = [model.body(name).id for name in names]
    return places, Placement(positions=np.array(positions).reshape(-1, 3), quaternions=np.array(quaternions).reshape(-1, 4))


def _floats(text: str) -> list[float]:
    return [float(number) for number in text.split()]


def _no_room() -> type[Exception]:
    return imported("robosuite.utils.errors").RandomizationError


@contextmanager
def _draws(rng: np.random.Generator) -> Iterator[None]:
    """Robosuite draws from numpy's global generator: here from `rng`, and the global one is left as it was."""
    before = np.random.get_state()
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(before)
