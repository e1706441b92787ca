"""What a policy is tried without: who succeeds all the same does not need it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium

from envs.wrappers import DISTRACTOR, BlankPictures, DistractorInstruction


@runtime_checkable
class Ablation(Protocol):
    """Takes something away from what an environment shows; success stays that of the true goal."""

    def why_not(self, info: Mapping[str, Any]) -> str | None:
        """Why it cannot be tried in an environment that tells `info` at its start; None where it can."""
        ...

    def __call__(self, env: gymnasium.Env) -> gymnasium.Env:
        """The environment that shows less."""
        ...


@dataclass(frozen=True)
class WrongInstruction:
    """The instruction for another thing in sight, which the environment tells (`Ablation`)."""

    def why_not(self, info: Mapping[str, Any]) -> str | None:
        """It is not told."""
        return None if DISTRACTOR in info else f"the environment tells no info[{DISTRACTOR!r}]"

    def __call__(self, env: gymnasium.Env) -> gymnasium.Env:
        """The instruction is replaced."""
        return DistractorInstruction(env)


@dataclass(frozen=True)
class Blank:
    """Pictures of one grey: what is left are the instruction and the state (`Ablation`)."""

    grey: int = 128
    """Of every pixel, 0 to 255."""

    def __post_init__(self) -> None:
        if not 0 <= self.grey <= 255:
            raise ValueError(f"grey={self.grey}: a pixel has 0 to 255.")

    def why_not(self, info: Mapping[str, Any]) -> str | None:
        """It can be tried everywhere."""
        return None

    def __call__(self, env: gymnasium.Env) -> gymnasium.Env:
        """Every picture is replaced."""
        return BlankPictures(env, grey=self.grey)


def without(make_env: Callable[[], gymnasium.Env], ablation: Ablation) -> gymnasium.Env:
    """An environment that shows less; a process of its own imports this module, and no torch for it."""
    return ablation(make_env())
