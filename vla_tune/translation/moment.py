"""What an environment showed and told at one step, from which the parts of a translation read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One step of an environment, or its start."""

    task: str
    env: gymnasium.Env
    shown: Any
    """The observation."""
    info: Mapping[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    episode: int | None = None
    """Which one of an evaluation it is, counted from 0; None elsewhere, and after a step."""
