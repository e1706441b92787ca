"""An environment of another shape than ours: nested dictionaries, flipped pictures, a gripper of -1 and 1, stored starts."""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

HOMES = np.linspace(-0.6, 0.6, 5)


class Crane(gymnasium.Env):
    """A crane on a rail (cm, towards minus), that lowers its load for `LOW` steps before it answers."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, place: str = "left", size: int = 48, render_mode: str | None = None) -> None:
        self.render_mode, self.place, self.size = render_mode, place, size
        self.action_space = Box(np.array([-5, 7, -1], np.float32), np.array([5, 7, 1], np.float32))
        self.observation_space = Dict({})
        self.wishes = {"left": "put it to the left", "right": "put it to the right"}
        self.homes, self.still = HOMES.tolist(), 0

    def sentence(self, loud: bool) -> str:
        return self.wishes[self.place].upper() if loud else self.wishes[self.place]

    def set_home(self, home: np.ndarray) -> None:
        self.at = float(home)

    def look(self) -> dict[str, Any]:
        picture = np.zeros((self.size, self.size, 3), np.uint8)
        picture[: self.size // 2] = self.colour
        column = int((self.at + 1) / 2 * (self.size - 8))
        picture[4:12, column : column + 8] = (255, 255, 255) if self.grip > 0 else (255, 0, 0)
        half = np.array([0.0, 0.0, np.sin(self.at / 2), np.cos(self.at / 2)])
        return {"cameras": {"top": {"rgb": picture}}, "crane": {"pose": np.array([9.0, self.at, 8.0]), "quat": half}}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.grip, self.count = self.np_random.uniform(-0.9, 0.9), -1.0, 0
        self.colour = self.np_random.integers(0, 200, 3)
        return self.look(), {"hint": self.wishes[self.place]}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.at, self.grip = float(np.clip(self.at - action[0] / 100, -1, 1)), float(action[2])
        self.count += 1
        self.still += not action[0]
        goal = -0.7 if self.place == "left" else 0.7
        reached = abs(self.at - goal) < 0.1 and self.grip > 0
        info: dict[str, Any] = {"count": self.count, "goal": {"distance": abs(self.at - goal)}}
        return self.look(), float(reached), False, False, info | ({"done_well": np.True_} if reached else {})

    def render(self) -> np.ndarray | None:
        return None if self.render_mode is None else self.look()["cameras"]["top"]["rgb"]


gymnasium.register("Crane-v0", Crane, max_episode_steps=3)


def to_its_goal(env: gymnasium.Env) -> np.ndarray:
    """An expert: in steps of 5 cm, so that from the far end of the rail it comes too late."""
    crane: Any = env.unwrapped
    goal = -0.7 if crane.place == "left" else 0.7
    return np.array([np.clip(goal - crane.at, -0.05, 0.05), 0, 0, 1], np.float32)


def lost(env: gymnasium.Env) -> np.ndarray:
    """An expert that knows only the left."""
    crane: Any = env.unwrapped
    return to_its_goal(env) if crane.place == "left" else np.zeros(4, np.float32)


def fatal(env: gymnasium.Env) -> np.ndarray:
    """An expert whose process ends in the middle of an episode."""
    os._exit(7)
