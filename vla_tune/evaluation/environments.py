"""The environments of an evaluation: side by side, started from seeds, standing still where nobody plays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from jaxtyping import Bool

from vla_tune.environment import EPISODE, drawn, observation_in, told
from vla_tune.schema import Embodiment, Observation, same_rate

MakeEnv = Callable[[], gymnasium.Env]
Vectorize = Callable[[Sequence[MakeEnv]], VectorEnv]

_PARK, _EPISODES = "vla_tune.park", "vla_tune.episodes"
_TOLD, _PROBLEM = "vla_tune.success", "vla_tune.problem"
_NOTHING = -1
_LAST_BREATH_S = 1.0
"""How long a process that broke its connection may still take to end."""


def in_turn(make_envs: Sequence[MakeEnv]) -> VectorEnv:
    """The environments in this process, one after the other."""
    return SyncVectorEnv(make_envs, autoreset_mode=AutoresetMode.DISABLED)


def in_processes(make_envs: Sequence[MakeEnv]) -> VectorEnv:
    """Each environment in a fresh process of its own (a forked one could not use its parent's OpenGL or CUDA)."""
    return AsyncVectorEnv(make_envs, autoreset_mode=AutoresetMode.DISABLED, context="spawn", shared_memory=False)


@contextmanager
def opened(envs: VectorEnv) -> Iterator[VectorEnv]:
    """The environments, closed at the end.

    Raises:
        ChildProcessError: the process of one of them ended, as a simulator that calls `abort` makes it.
    """
    try:
        yield envs
    except (EOFError, ConnectionError):
        if not (codes := _ended(envs)):
            raise
        said = f"the environment's process ended ({', '.join(codes)}), without a word to this one"
        raise ChildProcessError(f"{said}: look at what it printed, and at its memory.") from None
    finally:
        _close(envs)


def _processes(envs: VectorEnv) -> list[BaseProcess]:
    return list(getattr(envs, "processes", []))


def _ended(envs: VectorEnv) -> list[str]:
    """With which exit codes processes of the environments ended; a negative one is a signal."""
    processes = _processes(envs)
    wait([process.sentinel for process in processes], timeout=_LAST_BREATH_S)
    return sorted({f"exit code {process.exitcode}" for process in processes if process.exitcode is not None})


def _close(envs: VectorEnv) -> None:
    if all(process.exitcode is None for process in _processes(envs)):
        envs.close()
        return
    for process in _processes(envs):
        process.terminate()
        process.join()
    envs.closed = True  # it would ask a process that is no more


def parking(make_env: MakeEnv, count: int) -> list[MakeEnv]:
    """`count` makers of environments that `park` can halt."""
    return [partial(_make_parking, make_env, row) for row in range(count)]


def start(
    envs: VectorEnv, seeds: Sequence[int | None], rows: Bool[np.ndarray, " N"], episodes: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reset the environments in `rows` from their seeds, for these `episodes`; returns what all show, and those in `rows` told."""
    options = {"reset_mask": rows, _EPISODES: list(episodes)}
    return envs.reset(seed=cast(int, list(seeds)), options=options)  # a list is allowed, but not annotated


def park(envs: VectorEnv, rows: Bool[np.ndarray, " N"]) -> None:
    """Let the environments in `rows` stand still until they are started again."""
    envs.reset(options={"reset_mask": rows, _PARK: True})


def observation_of(observations: Any, row: int, embodiment: Embodiment) -> Observation:
    """What environment `row` of a vector environment shows.

    Raises:
        ValueError: as `vla_tune.environment.observation_in` does.
    """
    return observation_in(_row(observations, row), embodiment)


def success_of(infos: Mapping[str, Any], row: int) -> bool | None:
    """What environment `row` told of success; None where it told nothing.

    Raises:
        ValueError: it told it under another name, or as something else.
    """
    if problem := infos[_PROBLEM][row]:
        raise ValueError(problem)
    return None if infos[_TOLD][row] == _NOTHING else bool(infos[_TOLD][row])


def check_fit(envs: VectorEnv, embodiment: Embodiment) -> None:
    """Refuse an environment whose actions, or whose rate, are not the embodiment's."""
    check_actions(envs.single_action_space.shape, embodiment)
    check_rate(envs.metadata, embodiment)


def check_actions(shape: tuple[int, ...] | None, embodiment: Embodiment) -> None:
    """Refuse actions of another shape than the embodiment's."""
    if shape != (embodiment.action_dimension,):
        raise ValueError(
            f"the environment takes actions {shape}, {embodiment.name!r} has {embodiment.action_dimension} dimensions: the policy "
            "belongs to another robot."
        )


def check_rate(metadata: Mapping[str, Any], embodiment: Embodiment) -> None:
    """Refuse an environment that says that it acts at another rate (`metadata["control_hz"]`); most say nothing."""
    rate = metadata.get("control_hz")
    if isinstance(rate, int | float) and not same_rate(float(rate), embodiment.control_hz):
        raise ValueError(f"the environment acts at {rate:g} Hz, {embodiment.name!r} at {embodiment.control_hz:g} Hz.")


def check_seeding(envs: VectorEnv, seed: int, embodiment: Embodiment) -> None:
    """Refuse an environment that starts differently from the same seed (pictures aside: a GPU may draw them with some noise)."""
    everywhere = np.ones(envs.num_envs, dtype=bool)
    resets = [start(envs, [seed] * envs.num_envs, everywhere, [0] * envs.num_envs) for _ in range(2)]
    for row in range(envs.num_envs):
        first, again = (observation_of(observations, row, embodiment) for observations, _ in resets)
        if not np.array_equal(first.state, again.state) or first.instruction != again.instruction:
            raise ValueError("the environment starts differently from the same seed: make reset(seed=...) decide everything.")


def declared_limit(envs: VectorEnv) -> int | None:
    """After how many steps the environments say that an episode ends; None where they do not say."""
    return envs.get_attr("limit")[0]  # pyright: ignore[reportAttributeAccessIssue] (both kinds have it)


def _row(batch: Any, row: int) -> Any:
    """Of a batch of observations, that of one environment."""
    return {name: _row(child, row) for name, child in batch.items()} if isinstance(batch, Mapping) else batch[row]


class _Parking(gymnasium.Wrapper):
    """An environment that stands still after `reset(options={_PARK: True})`, so that a vector can step the others.

    Of what it tells, success alone goes on, always under the same names: a vector would mix up what only some of its environments
    tell, or tell as another type.
    """

    def __init__(self, env: gymnasium.Env, row: int) -> None:
        super().__init__(env)
        self._row = row

    @property
    def limit(self) -> int | None:
        """Steps of an episode, where the environment is registered with a limit."""
        return self.env.spec.max_episode_steps if self.env.spec else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = dict(options or {})
        self._parked = options.pop(_PARK, False)
        if self._parked:
            return self._last, _told({})
        episodes = options.pop(_EPISODES)
        shown, info = self.env.reset(seed=seed, options=options | {EPISODE: episodes[self._row]})
        self._last = _drawn(shown)
        return self._last, _told(info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._parked:
            return self._last, 0.0, False, False, _told({})
        shown, reward, terminated, truncated, info = self.env.step(action)
        self._last = _drawn(shown)
        return self._last, reward, terminated, truncated, _told(info)


def _told(info: dict[str, Any]) -> dict[str, Any]:
    try:
        success = told(info)
    except ValueError as error:
        return {_TOLD: _NOTHING, _PROBLEM: str(error)}
    return {_TOLD: _NOTHING if success is None else int(success), _PROBLEM: ""}


def _drawn(shown: Any) -> Any:
    """With pictures in place of functions."""
    if not isinstance(shown, Mapping) or not isinstance(shown.get("images"), Mapping):
        return shown
    images = {name: drawn(name, picture) if callable(picture) else picture for name, picture in shown["images"].items()}
    return {**shown, "images": images}


def _make_parking(make_env: MakeEnv, row: int) -> _Parking:
    return _Parking(make_env(), row)
