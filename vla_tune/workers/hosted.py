"""An environment as plain data, for a program that cannot import it."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from vla_tune.environment import drawn
from vla_tune.workers.building import built
from vla_tune.workers.code import code_of
from vla_tune.workers.start import behind, physics_of, renderer_here
from vla_tune.workers.wire import sendable


class Hosted:
    """An environment that shows and tells what `vla_tune.environment` says, built of plain data.

    Args:
        make: `_target_` and its arguments: what makes it, for a `task`.
        task: The task.

    Raises:
        ValueError: it cannot be built, or its actions are no box of numbers.
    """

    def __init__(self, make: Mapping[str, Any], task: str) -> None:
        self._make = built({**make, "_partial_": True})
        self._env: gymnasium.Env = self._make(task=task)
        self._images: Mapping[str, Any] = {}

    def about(self) -> dict[str, Any]:
        """Its actions, what it says of itself, and its limit of steps."""
        space, spec = self._env.action_space, self._env.spec
        if not isinstance(space, Box):
            raise ValueError(f"the environment takes {space}: its actions must be a Box.")
        box = {"low": space.low, "high": space.high, "dtype": space.dtype.str}
        return {"action": box, "metadata": sendable(self._env.metadata), "limit": spec.max_episode_steps if spec else None}

    def reset(self, seed: int | None, options: Mapping[str, Any]) -> list[Any]:
        """What is shown, but the pictures, whose names it says; and what is told."""
        shown, info = self._env.reset(seed=seed, options=dict(options) or None)
        return [*self._shown(shown), sendable(info)]

    def step(self, action: np.ndarray) -> list[Any]:
        """The same after a step, with the reward and whether the episode terminated or was truncated."""
        shown, reward, terminated, truncated, info = self._env.step(action)
        return [*self._shown(shown), float(reward), bool(terminated), bool(truncated), sendable(info)]

    def draw(self, name: str) -> np.ndarray:
        """A picture of what was shown last."""
        return drawn(name, self._images[name])

    def code(self) -> dict[str, Any]:
        """What it is written as: hash and versions, of this interpreter."""
        return code_of(self._make, behind(self._env))

    def physics(self) -> dict[str, np.ndarray]:
        """MuJoCo's positions and velocities, where it has them."""
        return dict(physics_of(self._env))

    def renderer(self) -> str | None:
        """Who drew its last picture."""
        return renderer_here()

    def close(self) -> None:
        """Closes it."""
        self._env.close()

    def _shown(self, shown: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        self._images = shown["images"]
        return {name: value for name, value in shown.items() if name != "images"}, list(self._images)
