"""An environment that plays actions until it is time to look again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from vla_tune.environment import EPISODE, observation_in, told, without_pictures
from vla_tune.schema import Embodiment, Observation, embodiment_from_record
from vla_tune.workers.start import Behind, Start, behind, start_of
from vla_tune.workers.wire import sendable

_RATE = "control_hz"


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What is seen and told after a step, or at the start of an episode."""

    seen: Observation
    """Without pictures, where nobody asked for them."""
    reward: float = 0.0
    success: bool | None = None
    """None where nothing is told."""
    over: bool = False

    @property
    def plain(self) -> list[Any]:
        """As plain data."""
        seen = self.seen
        return [dict(seen.images), np.asarray(seen.state), seen.instruction, self.reward, self.success, self.over]

    @classmethod
    def of(cls, plain: Sequence[Any]) -> "Tick":
        """The tick that `plain` says."""
        images, state, instruction, reward, success, over = plain
        seen = Observation(images=images, state=state, instruction=instruction)
        return cls(seen=seen, reward=reward, success=success, over=over)


@dataclass(frozen=True, kw_only=True)
class About:
    """What an environment says of itself."""

    shape: Sequence[int] | None
    """Of its actions."""
    control_hz: float | None
    """Its rate, where it says one."""
    limit: int | None
    """Steps of an episode, where it is registered with a limit."""

    @property
    def plain(self) -> list[Any]:
        """As plain data."""
        return [None if self.shape is None else list(self.shape), self.control_hz, self.limit]

    @classmethod
    def of(cls, plain: Sequence[Any]) -> "About":
        """What `plain` says."""
        shape, control_hz, limit = plain
        return cls(shape=None if shape is None else tuple(shape), control_hz=control_hz, limit=limit)


class Worker:
    """An environment, and the episode that it is in.

    Its methods raise ValueError, with episode and step named, where the environment shows or tells what it must not.
    """

    def __init__(self, make_env: Callable[[], gymnasium.Env], embodiment: Embodiment) -> None:
        self._embodiment, self._env = embodiment, make_env()
        self._episode = self._steps = 0

    def about(self) -> About:
        """What the environment says of itself."""
        rate, spec = self._env.metadata.get(_RATE), self._env.spec
        told_rate = float(rate) if isinstance(rate, int | float) else None
        return About(shape=self._env.action_space.shape, control_hz=told_rate, limit=spec.max_episode_steps if spec else None)

    def behind(self) -> Behind:
        """What code is behind it."""
        return behind(self._env)

    def start(self, *, seed: int, episode: int) -> Start:
        """How an episode begins, which is begun twice."""
        return start_of(self._env, seed=seed, episode=episode)

    def begin(self, *, seed: int, episode: int, look: bool) -> list[Tick]:
        """Begins an episode; returns its start alone, with pictures if somebody looks."""
        self._episode, self._steps = episode, 0
        with self._naming():
            shown, info = self._env.reset(seed=seed, options={EPISODE: episode})
            return [Tick(seen=self._seen(shown, look=look), success=told(info))]

    def play(self, *, actions: Float[np.ndarray, "n A"], each: bool, last: bool) -> list[Tick]:
        """Takes actions, at least one, until there are no more or the episode is over; returns a tick for each.

        Args:
            actions: In robot units.
            each: Whether every tick is looked at.
            last: Whether the one after the last action is, unless the episode is over there.
        """
        ticks: list[Tick] = []
        for left, action in zip(range(len(actions) - 1, -1, -1), actions, strict=True):
            self._steps += 1
            with self._naming():
                taken = np.asarray(action, self._env.action_space.dtype)
                shown, reward, terminated, truncated, info = self._env.step(taken)
                over = bool(terminated or truncated)
                seen = self._seen(shown, look=each or (last and not left and not over))
                ticks.append(Tick(seen=seen, reward=float(reward), success=told(info), over=over))
            if over:
                break
        return ticks

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _seen(self, shown: Any, *, look: bool) -> Observation:
        return (observation_in if look else without_pictures)(shown, self._embodiment)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"episode {self._episode}, step {self._steps}: {error}") from error


class PlainWorker:
    """A worker whose answers are plain data, as they cross to another process."""

    def __init__(self, make_env: Callable[[], gymnasium.Env], embodiment: Mapping[str, Any]) -> None:
        self._worker = Worker(make_env, embodiment_from_record(embodiment))

    def about(self) -> list[Any]:
        """As `About.of` reads it."""
        return self._worker.about().plain

    def behind(self) -> dict[str, Any]:
        """As `Worker.behind`, by name."""
        return vars(self._worker.behind())

    def start(self, **arguments: Any) -> dict[str, Any]:
        """As `Worker.start`, by name."""
        start = vars(self._worker.start(**arguments))
        return start | {"info": sendable(start["info"])}

    def begin(self, **arguments: Any) -> list[Any]:
        """As `Worker.begin`."""
        return [tick.plain for tick in self._worker.begin(**arguments)]

    def play(self, **arguments: Any) -> list[Any]:
        """As `Worker.play`."""
        return [tick.plain for tick in self._worker.play(**arguments)]

    def close(self) -> None:
        """Closes the environment."""
        self._worker.close()
