"""One episode of an expert in a gymnasium environment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32

from vla_tune.data.starts import Start
from vla_tune.environment import observation_in, told
from vla_tune.record.noise import Disturbing
from vla_tune.schema import Embodiment

Frame = dict[str, Any]
"""{camera key: uint8 [H W 3], state key, action key: float32, "task": str, further keys}."""
Environment = gymnasium.Env[Any, Any]
Expert = Callable[[Environment], Float32[np.ndarray, " A"]]
"""What an expert does now, given the environment."""


@dataclass(frozen=True)
class Episode:
    """A success, up to and with the step that succeeds."""

    frames: list[Frame]
    start: Start


@dataclass(frozen=True)
class Done:
    """What became of an episode that was to be recorded."""

    task: str
    episode: int
    failed: int
    """Attempts that were not kept."""
    kept: bool
    """Whether one succeeded."""


def rollout(
    env: Environment,
    expert: Expert,
    *,
    body: Embodiment,
    noise: Disturbing,
    rng: np.random.Generator,
    options: Mapping[str, Any] | None = None,
) -> Episode | None:
    """An episode, or None if it fails; start and noise are drawn from `rng`.

    Raises:
        ValueError: the environment does not show what the embodiment needs, or the expert says no action of it.
    """
    seed = int(rng.integers(2**31))
    shown, _ = env.reset(seed=seed, options=dict(options) if options else None)
    disturb = noise.begin(body, rng)
    frames, exact = list[Frame](), True
    while True:
        action = _said(expert(env), body)
        frames.append(_frame(shown, action, body))
        executed = np.clip(disturb(action, len(frames) - 1), env.action_space.low, env.action_space.high)  # pyright: ignore[reportAttributeAccessIssue]
        exact &= np.array_equal(executed.astype(np.float32), action)
        shown, _, terminated, truncated, info = env.step(executed.astype(np.float32))
        if told(info):
            return Episode(frames, Start(seed, dict(options or {}), exact=exact))
        if terminated or truncated:
            return None


def _said(action: Any, body: Embodiment) -> Float32[np.ndarray, " A"]:
    if not isinstance(action, np.ndarray) or action.shape != (body.action_dimension,) or not np.isfinite(action).all():
        said = " ".join(str(action).split())[:200]
        raise ValueError(f"the expert says {said}: no action of {body.name!r}, an array of {body.action_dimension} finite numbers.")
    return action


def _frame(shown: Any, action: Float32[np.ndarray, " A"], body: Embodiment) -> Frame:
    seen = observation_in(shown, body)
    images = {camera.key: seen.images[camera.role].copy() for camera in body.cameras}
    state = {body.state_key: np.asarray(seen.state, np.float32)} if body.state else {}
    return images | state | {body.action_key: np.asarray(action, np.float32), "task": seen.instruction}
