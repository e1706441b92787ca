"""Ablations that wrap an environment."""

from typing import Any

import gymnasium

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


def _replace(observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    if DISTRACTOR not in info:
        raise ValueError(
            f"the environment tells {sorted(info)} but no info[{DISTRACTOR!r}], a sentence about another thing in sight: a wrong "
            "instruction cannot be tried."
        )
    return observation | {"instruction": info[DISTRACTOR]}
