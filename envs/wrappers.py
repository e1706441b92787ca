"""Ablations that wrap an environment."""

from typing import Any

import gymnasium
import numpy as np

DISTRACTOR = "distractor_instruction"
"""Where an environment tells, in `info`, the instruction for another thing in sight."""


class DistractorInstruction(gymnasium.Wrapper):
    """Shows the instruction for another block while success stays that of the true goal.

    A policy that listens to its instruction fails here; one that succeeds as often as before does not need language.

    `reset` and `step` raise ValueError if the environment does not tell such an instruction.
    """

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset, and replace the instruction."""
        observation, info = self.env.reset(**arguments)
        return _replace(observation, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Step, and replace the instruction."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return _replace(observation, info), reward, terminated, truncated, info


class BlankPictures(gymnasium.Wrapper):
    """Shows pictures of one grey in place of the environment's, of the same shape; a policy that looks fails here.

    A picture that the environment gives as a function, to be drawn when somebody looks, is drawn once, to learn its shape.
    """

    def __init__(self, env: gymnasium.Env, *, grey: int) -> None:
        super().__init__(env)
        self._grey = grey
        self._blank: dict[str, np.ndarray] = {}

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset, and replace the pictures."""
        observation, info = self.env.reset(**arguments)
        return self._without(observation), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Step, and replace the pictures."""
        observation, *told = self.env.step(action)
        return self._without(observation), *told  # pyright: ignore[reportReturnType]

    def _without(self, observation: dict[str, Any]) -> dict[str, Any]:
        return observation | {"images": {name: self._of(name, picture) for name, picture in observation["images"].items()}}

    def _of(self, name: str, picture: Any) -> np.ndarray:
        if name not in self._blank:
            self._blank[name] = np.full_like(picture() if callable(picture) else picture, self._grey)
        return self._blank[name]


def _replace(observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    if DISTRACTOR not in info:
        raise ValueError(
            f"the environment tells {sorted(info)} but no info[{DISTRACTOR!r}], a sentence about another thing in sight: a wrong "
            "instruction cannot be tried."
        )
    return observation | {"instruction": info[DISTRACTOR]}
