"""Ablations that wrap an environment."""

from typing import Any

import gymnasium


class DistractorInstruction(gymnasium.Wrapper):
    """Shows the instruction for another block while success stays that of the true goal.

    A policy that listens to its instruction fails here; one that succeeds as often as before does not need language.
    """

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset, and replace the instruction."""
        observation, info = self.env.reset(**arguments)
        return _replace(observation, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Step, and replace the instruction."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return _replace(observation, info), reward, terminated, truncated, info


def _replace(observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    return observation | {"instruction": info["distractor_instruction"]}
