"""Expert demonstrations in a gymnasium environment."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from vla_tune.data.starts import Start, write_starts
from vla_tune.environment import observation_in, told
from vla_tune.record.folder import written_once
from vla_tune.record.writer import Frame, Storage, write_episodes
from vla_tune.schema import Embodiment, to_record
from vla_tune.translation.wrapper import TRANSLATION

_log = logging.getLogger(__name__)
Environment = gymnasium.Env[Any, Any]
Expert = Callable[[Environment], Float32[np.ndarray, " A"]]
"""What an expert does now, given the environment."""

_ATTEMPTS = 5
"""Attempts per wanted episode until the expert is given up."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Disturbs what is executed, never what is recorded (DART, arXiv 1703.09327): so the data show how to come back."""

    deviation_m: float = 0.006
    """Standard deviation on every translation axis."""
    share: float = 0.5
    """Share of the episodes that have it."""
    burst: float = 0.6
    """Probability that an episode has bursts: one or two, each of 2 to 4 steps in one random direction."""
    burst_m: float = 0.03
    """Largest motion of a burst per axis and step."""
    burst_before: int = 22
    """Bursts begin before this step."""


STILL = Noise(share=0.0, burst=0.0)
"""No noise."""


def record_demonstrations(
    folder: Path,
    *,
    make_env: Callable[[], Environment],
    expert: Expert,
    embodiment: Embodiment,
    episodes: int,
    seed: int,
    noise: Noise,
    storage: Storage,
    options: Sequence[Mapping[str, Any]] = ({},),
) -> Path:
    """Record successful expert episodes, up to and with the step that succeeds.

    `vla_tune.environment` says what the environment shows and tells. Everything follows from the seed. A folder that the same call
    recorded before is left as it is.

    Args:
        folder: Of the dataset.
        make_env: Makes the environment, with its limit of steps.
        expert: Asked once per step.
        embodiment: What is recorded, and under which names.
        episodes: How many, failures not counted.
        seed: Of starts and noise.
        noise: On what is executed.
        storage: Of the pictures.
        options: `reset` options, taken in turn by successive episodes, e.g. `[{"task": "touch"}, {"task": "lift"}]`.

    Raises:
        ValueError: the folder holds something else, or the expert fails too often.
        OSError: the disk is full.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: record at least 1.")
    with closing(make_env()) as env:
        recipe = {
            "kind": "demonstrations",
            "environment": _described(env),
            "expert": getattr(expert, "__qualname__", type(expert).__qualname__),
            "options": [dict(option) for option in options],
            "embodiment": to_record(embodiment),
            "episodes": episodes,
            "seed": seed,
            "noise": asdict(noise),
            "storage": asdict(storage),
        }
        rollouts = _successes(env, expert, embodiment, episodes, seed, noise, options)

        def write(root: Path) -> None:
            starts: list[Start] = []

            def frames() -> Iterator[list[Frame]]:
                for rollout in rollouts:
                    starts.append(rollout.start)
                    yield rollout.frames

            write_episodes(root, frames(), embodiment=embodiment, storage=storage)
            write_starts(root, starts)

        return written_once(folder, recipe, write)


def _successes(
    env: Environment,
    expert: Expert,
    body: Embodiment,
    episodes: int,
    seed: int,
    noise: Noise,
    options: Sequence[Mapping[str, Any]],
) -> Iterator["_Rollout"]:
    for episode in range(episodes):
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, episode, attempt])
            rollout = _rollout(env, expert, body, noise, dict(options[episode % len(options)]), rng)
            if rollout is not None:
                yield rollout
                break
            _log.info("episode %d: the expert failed in attempt %d, which is not kept.", episode, attempt + 1)
        else:
            raise ValueError(
                f"episode {episode}: the expert failed {_ATTEMPTS} times: reduce the noise ({noise}) or mend the expert."
            )


def _rollout(
    env: Environment, expert: Expert, body: Embodiment, noise: Noise, options: dict[str, Any], rng: np.random.Generator
) -> "_Rollout | None":
    """An episode, or None if it fails."""
    seed = int(rng.integers(2**31))
    observation, _ = env.reset(seed=seed, options=options or None)
    disturb = _Disturbance(noise, _translation(body), rng)
    frames, exact = list[Frame](), True
    while True:
        action = expert(env)
        frames.append(_frame(observation, action, body))
        executed = np.clip(disturb(action, len(frames) - 1), env.action_space.low, env.action_space.high)  # pyright: ignore[reportAttributeAccessIssue]
        exact &= np.array_equal(executed.astype(np.float32), action)
        observation, _, terminated, truncated, info = env.step(executed.astype(np.float32))
        if told(info):
            return _Rollout(frames, Start(seed, options, exact=exact))
        if terminated or truncated:
            return None


@dataclass(frozen=True)
class _Rollout:
    frames: list[Frame]
    start: Start


class _Disturbance:
    """The noise of one episode."""

    def __init__(self, noise: Noise, axes: Sequence[int], rng: np.random.Generator) -> None:
        self.axes, self.rng = list(axes), rng
        self.deviation = noise.deviation_m * (rng.random() < noise.share)
        self.motions: dict[int, Float[np.ndarray, " d"]] = {}
        for _ in range(rng.integers(1, 3) if rng.random() < noise.burst else 0):
            start, length = int(rng.integers(noise.burst_before)), int(rng.integers(2, 5))
            motion = rng.uniform(-noise.burst_m, noise.burst_m, len(self.axes))
            self.motions |= dict.fromkeys(range(start, start + length), motion)

    def __call__(self, action: Float32[np.ndarray, " A"], step: int) -> Float[np.ndarray, " A"]:
        executed = action.astype(np.float64)
        if step in self.motions:
            executed[self.axes] = self.motions[step]
        else:
            executed[self.axes] += self.rng.normal(0.0, self.deviation, len(self.axes))
        return executed


def _frame(observation: Mapping[str, Any], action: Float32[np.ndarray, " A"], body: Embodiment) -> Frame:
    seen = observation_in(observation, body)
    images = {camera.key: seen.images[camera.role].copy() for camera in body.cameras}
    state = {body.state_key: np.asarray(seen.state, np.float32)} if body.state else {}
    return images | state | {body.action_key: np.asarray(action, np.float32), "task": seen.instruction}


def _translation(body: Embodiment) -> list[int]:
    """The action dimensions that are lengths: the noise is in metres."""
    units = [group.unit for group in body.action for _ in range(group.dimension)]
    return [index for index, unit in enumerate(units) if unit == "m"]


def _described(env: Environment) -> Any:
    spec = env.spec
    said = (
        type(env.unwrapped).__qualname__
        if spec is None
        else {"id": spec.id, "kwargs": spec.kwargs, "limit": spec.max_episode_steps}
    )
    return {"environment": said, TRANSLATION: env.metadata[TRANSLATION]} if TRANSLATION in env.metadata else said
