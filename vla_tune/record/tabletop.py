"""The built-in tabletop as a source of demonstrations: its expert, and its scene as a `World`."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32, UInt8

from envs.experts import expert_action
from envs.goals import REACH, TASKS, Goal, check_task, draw_goal, sentence, success
from envs.render import frame
from envs.scene import Scene, Snapshot

_FALLEN = 0.0  # m, height of a cube's centre below which it has left the table


def tabletop_expert(env: gymnasium.Env[Any, Any]) -> Float32[np.ndarray, "4"]:
    """The scripted expert's next action for the environment's present goal."""
    tabletop: Any = env.unwrapped
    return expert_action(tabletop.goal, tabletop.scene)


class TabletopWorld:
    """Play on the tabletop (`vla_tune.record.World`).

    Args:
        tasks: Names of `envs.goals.TASKS` that may be asked for.
        cameras: Picture size (height, width) in pixels by camera.
    """

    def __init__(self, tasks: tuple[str, ...] = TASKS, cameras: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.tasks = tuple(check_task(task) for task in tasks)
        self.cameras = dict(cameras or {"front": (64, 64)})
        self.scene = Scene()
        self._start = self.scene.cubes()

    def scatter(self, rng: np.random.Generator) -> None:
        """Place cubes and tool at random."""
        self.scene.scatter(rng)

    def draw_goal(self, rng: np.random.Generator) -> Goal | None:
        """As `envs.goals.draw_goal`, trying tasks in random order: the same distribution at a fraction of the time."""
        for index in rng.permutation(len(self.tasks)):
            if goal := draw_goal(self.scene, (self.tasks[index],), rng):
                return goal
        return None

    def reached(self, goal: Goal) -> bool:
        """Whether the goal is achieved from here on, or its target out of reach."""
        target = self.scene.cubes()[goal.target]
        gone = bool((np.abs(target[:2]) > REACH).any() or target[2] < _FALLEN)
        return gone or success(goal, self.scene, self.scene.cubes())

    def expert(self, goal: Goal) -> Float32[np.ndarray, "4"]:
        """The scripted expert."""
        return expert_action(goal, self.scene)

    def step(self, action: Float32[np.ndarray, "4"]) -> None:
        """0.1 s."""
        self.scene.step(action)

    def snapshot(self) -> Snapshot:
        """The physics state."""
        return self.scene.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to it."""
        self.scene.restore(snapshot)

    def images(self) -> Mapping[str, UInt8[np.ndarray, "H W 3"]]:
        """Pictures by camera."""
        return {name: frame(self.scene, name, *size) for name, size in self.cameras.items()}

    def state(self) -> Float32[np.ndarray, "4"]:
        """Tip x, y, z in m and suction 0 or 1."""
        return np.append(self.scene.tool(), self.scene.suction).astype(np.float32)

    def sentence(self, goal: Goal, rng: np.random.Generator) -> str:
        """One of the paraphrases."""
        return sentence(goal, self.scene.colours, rng)

    def target_position(self, goal: Goal) -> Float32[np.ndarray, "2"]:
        """x, y of the target's centre in m."""
        return self.scene.cubes()[goal.target, :2].astype(np.float32)

    def perturb(
        self, action: Float32[np.ndarray, "4"], offset: Float[np.ndarray, "3"], *, replace: bool
    ) -> Float32[np.ndarray, "4"]:
        """The translation moved or replaced; suction stays the expert's."""
        translation = offset if replace else action[:3] + offset
        return np.append(translation, action[3]).astype(np.float32)
