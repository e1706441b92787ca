"""The tabletop with LeRobot's names for what it shows."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig

import envs  # noqa: F401  (registers the environment)

ID = "lerobot_env_vla_tune/Tabletop-v0"
_PIXELS = "pixels/"


@EnvConfig.register_subclass("vla_tune")
@dataclass
class VlaTuneEnv(EnvConfig):
    """One task of the tabletop, e.g. `lift`, `push_left`, `stack`."""

    task: str | None = "lift"
    fps: int = 10
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        env = gymnasium.make(ID, task=self.task)
        shown = env.observation_space
        assert isinstance(shown, spaces.Dict)
        assert isinstance(shown["pixels"], spaces.Dict)
        cameras = {_PIXELS + name: PolicyFeature(FeatureType.VISUAL, space.shape) for name, space in shown["pixels"].items()}
        state = PolicyFeature(FeatureType.STATE, shown["agent_pos"].shape)
        self.features = cameras | {"agent_pos": state, "action": PolicyFeature(FeatureType.ACTION, env.action_space.shape)}
        names = {key: f"observation.images.{key.removeprefix(_PIXELS)}" for key in cameras}
        self.features_map = names | {"agent_pos": "observation.state", "action": "action"}
        env.close()

    @property
    def gym_id(self) -> str:
        """As it is registered below."""
        return ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Of `gymnasium.make`."""
        return {"task": self.task, "render_mode": "rgb_array"}


class LeRobotNames(gymnasium.Wrapper):
    """Shows `pixels` and `agent_pos`, and says the instruction as `task_description`."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        shown = env.observation_space
        assert isinstance(shown, spaces.Dict)
        self.observation_space = spaces.Dict({"pixels": shown["images"], "agent_pos": shown["state"]})
        self.task_description = ""

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset; the instruction is the episode's."""
        shown, info = self.env.reset(**arguments)
        self.task_description = shown["instruction"]
        return _renamed(shown), info | {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Step."""
        shown, reward, terminated, truncated, info = self.env.step(action)
        return _renamed(shown), reward, terminated, truncated, info | {"is_success": bool(info["success"])}


def _renamed(shown: dict[str, Any]) -> dict[str, Any]:
    return {"pixels": dict(shown["images"]), "agent_pos": shown["state"]}


def make(**arguments: Any) -> gymnasium.Env:
    """The environment, for gymnasium's registry."""
    return LeRobotNames(gymnasium.make("vla_tune/Tabletop-v0", disable_env_checker=True, **arguments))


gymnasium.register(ID, entry_point=make)
