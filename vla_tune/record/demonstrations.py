"""Expert demonstrations in a gymnasium environment."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vla_tune.data.starts import Start, write_starts
from vla_tune.environment import beside_stored
from vla_tune.record.episode import Environment, Episode, Expert, Frame, rollout
from vla_tune.record.folder import Code, written_once
from vla_tune.record.noise import Disturbing
from vla_tune.record.writer import Storage, write_episodes
from vla_tune.schema import Embodiment, to_record
from vla_tune.translation.wrapper import TRANSLATION

_log = logging.getLogger(__name__)

_ATTEMPTS = 5
"""Attempts per wanted episode until the expert is given up."""


def record_demonstrations(
    folder: Path,
    *,
    make_env: Callable[[], Environment],
    expert: Expert,
    embodiment: Embodiment,
    episodes: int,
    seed: int,
    noise: Disturbing,
    storage: Storage,
    options: Sequence[Mapping[str, Any]] = ({},),
) -> Path:
    """Record successful expert episodes, up to and with the step that succeeds.

    `vla_tune.environment` says what the environment shows and tells; no episode begins in a stored start. Everything follows from
    the seed. A folder that the same call recorded before is left as it is.

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
        options = [{**option, **beside_stored(env.metadata)} for option in options]
        recipe = {
            "kind": "demonstrations",
            "environment": _described(env),
            "expert": getattr(expert, "__qualname__", type(expert).__qualname__),
            "options": options,
            "embodiment": to_record(embodiment),
            "episodes": episodes,
            "seed": seed,
            "noise": asdict(noise),  # pyright: ignore[reportArgumentType]
            "storage": asdict(storage),
        }
        successes = _successes(env, expert, embodiment, episodes, seed, noise, options)

        def write(root: Path) -> None:
            starts: list[Start] = []

            def frames() -> Iterator[list[Frame]]:
                for success in successes:
                    starts.append(success.start)
                    yield success.frames

            write_episodes(root, frames(), embodiment=embodiment, storage=storage)
            write_starts(root, starts)

        return written_once(folder, recipe, write, Code.behind(environment=[type(env), type(env.unwrapped)], expert=expert))


def _successes(
    env: Environment,
    expert: Expert,
    body: Embodiment,
    episodes: int,
    seed: int,
    noise: Disturbing,
    options: Sequence[Mapping[str, Any]],
) -> Iterator[Episode]:
    for episode in range(episodes):
        for attempt in range(_ATTEMPTS):
            rng, asked = np.random.default_rng([seed, episode, attempt]), options[episode % len(options)]
            if (success := rollout(env, expert, body=body, noise=noise, rng=rng, options=asked)) is not None:
                yield success
                break
            _log.info("episode %d: the expert failed in attempt %d, which is not kept.", episode, attempt + 1)
        else:
            raise ValueError(
                f"episode {episode}: the expert failed {_ATTEMPTS} times: reduce the noise ({noise}) or mend the expert."
            )


def _described(env: Environment) -> Any:
    spec = env.spec
    said = (
        type(env.unwrapped).__qualname__
        if spec is None
        else {"id": spec.id, "kwargs": spec.kwargs, "limit": spec.max_episode_steps}
    )
    return {"environment": said, TRANSLATION: env.metadata[TRANSLATION]} if TRANSLATION in env.metadata else said
