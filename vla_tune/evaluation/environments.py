"""The environments of an evaluation: side by side, started from seeds, standing still where nobody plays."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from jaxtyping import Bool

from vla_tune.schema import Embodiment, Observation

MakeEnv = Callable[[], gymnasium.Env]
Vectorize = Callable[[Sequence[MakeEnv]], VectorEnv]

_PARK = "vla_tune.park"


def in_turn(make_envs: Sequence[MakeEnv]) -> VectorEnv:
    """The environments in this process, one after the other."""
    return SyncVectorEnv(make_envs, autoreset_mode=AutoresetMode.DISABLED)


def in_processes(make_envs: Sequence[MakeEnv]) -> VectorEnv:
    """Each environment in a fresh process of its own (a forked one could not use its parent's OpenGL or CUDA)."""
    return AsyncVectorEnv(make_envs, autoreset_mode=AutoresetMode.DISABLED, context="spawn", shared_memory=False)


def parking(make_env: MakeEnv, count: int) -> list[MakeEnv]:
    """`count` makers of environments that `park` can halt."""
    return [partial(_make_parking, make_env)] * count


def start(envs: VectorEnv, seeds: Sequence[int | None], rows: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """Reset the environments in `rows` from their seeds; returns the observations of all."""
    return envs.reset(seed=cast(int, list(seeds)), options={"reset_mask": rows})[0]  # a list is allowed, but not annotated


def park(envs: VectorEnv, rows: Bool[np.ndarray, " N"]) -> None:
    """Let the environments in `rows` stand still until they are started again."""
    envs.reset(options={"reset_mask": rows, _PARK: True})


def observation_of(observations: Mapping[str, Any], row: int, embodiment: Embodiment) -> Observation:
    """What environment `row` of a vector environment shows, by the roles of the embodiment's cameras.

    Raises:
        ValueError: a camera is missing.
    """
    images, names = observations["images"], {camera.role: camera.key.rpartition(".")[2] for camera in embodiment.cameras}
    if missing := sorted(set(names.values()) - images.keys()):
        raise ValueError(
            f"the environment shows cameras {sorted(images)}, {embodiment.name!r} needs {missing} too: add them to its cameras."
        )
    return Observation(
        images={role: images[name][row] for role, name in names.items()},
        state=observations["state"][row],
        instruction=observations["instruction"][row],
    )


def check_fit(envs: VectorEnv, embodiment: Embodiment) -> None:
    """Refuse an environment whose actions are not the embodiment's."""
    if envs.single_action_space.shape != (embodiment.action_dimension,):
        raise ValueError(
            f"the environment takes actions {envs.single_action_space.shape}, {embodiment.name!r} has "
            f"{embodiment.action_dimension} dimensions: the policy belongs to another robot."
        )


def check_seeding(envs: VectorEnv, seed: int) -> None:
    """Refuse an environment that starts differently from the same seed (pictures aside: a GPU may draw them with some noise)."""
    everywhere = np.ones(envs.num_envs, dtype=bool)
    first, again = (start(envs, [seed] * envs.num_envs, everywhere) for _ in range(2))
    if not np.array_equal(first["state"], again["state"]) or first["instruction"] != again["instruction"]:
        raise ValueError("the environment starts differently from the same seed: make reset(seed=...) decide everything.")


class _Parking(gymnasium.Wrapper):
    """An environment that stands still after `reset(options={_PARK: True})`, so that a vector can step the others."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        self._parked = options.pop(_PARK, False)
        if self._parked:
            return self._last, {}
        self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._parked:
            return self._last, 0.0, False, False, {}
        self._last, reward, terminated, truncated, info = self.env.step(action)
        return self._last, reward, terminated, truncated, info


def _make_parking(make_env: MakeEnv) -> _Parking:
    return _Parking(make_env())
