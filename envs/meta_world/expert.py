"""Meta-World's scripted policies as experts."""

import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32

from envs.meta_world.environment import MetaWorld
from envs.meta_world.package import imported


@dataclass(frozen=True)
class Scripted:
    """The policy that comes with the task; its actions reach beyond their range, and are clipped as the environment clips them."""

    def __call__(self, env: gymnasium.Env[Any, Any]) -> Float32[np.ndarray, "4"]:
        """What it does now.

        Raises:
            ValueError: the environment is no task of Meta-World.
        """
        world = env.unwrapped
        if not isinstance(world, MetaWorld):
            raise ValueError(f"{type(world).__name__} is no task of Meta-World: its scripted policies do not know it.")
        policy = imported("metaworld.policies").ENV_POLICY_MAP[world.task]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says at each step that it is clipped
            action = policy.get_action(world.seen)
        return np.clip(action, -1.0, 1.0).astype(np.float32)
