"""How an episode begins, beyond `reset`: from states that are stored, with some steps until things have come to rest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from vla_tune.translation.moment import Moment
from vla_tune.translation.paths import attribute_of, in_mapping
from vla_tune.translation.sources import Source


@runtime_checkable
class SeedInto(Protocol):
    """Gives an episode's seed to an environment that does not take it from `reset(seed=...)`."""

    def __call__(self, env: gymnasium.Env, seed: int) -> None:
        """Before each reset."""
        ...


@runtime_checkable
class StartFrom(Protocol):
    """Puts an environment that was reset where an episode begins."""

    def __call__(self, moment: Moment, seed: int | None) -> Any:
        """Returns what is shown there, or None where only a step shows it."""
        ...


@runtime_checkable
class Counted(Protocol):
    """Knows how many starts there are (a `StartFrom`)."""

    def count(self, moment: Moment) -> int:
        """Of the environment's task."""
        ...


@dataclass(frozen=True, kw_only=True)
class SeedCall:
    """A method of the environment takes the seed."""

    path: str = "seed"

    def __call__(self, env: gymnasium.Env, seed: int) -> None:
        """Calls it."""
        attribute_of(env, self.path)(seed)


@dataclass(frozen=True, kw_only=True)
class StatesInFile:
    """States in a JSON file: a list of lists of numbers, or such a list at a `key` of a dictionary."""

    file: str
    key: str = ""

    def __call__(self, moment: Moment) -> Sequence[Any]:
        """All of them.

        Raises:
            ValueError: they are not there.
        """
        path = Path(self.file).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no file {path} with states to begin from.")
        return in_mapping(json.loads(path.read_text()), self.key, where=str(path))


@dataclass(frozen=True, kw_only=True)
class StoredStarts:
    """State number `episode mod count` of an evaluation, so that as many episodes as there are states begin once in each.

    Where no evaluation counts the episodes (a simulated robot, a recording), it is number `seed mod count`: the same seed begins
    in the same state.
    """

    states: Source
    set: str
    """The method of the environment that takes a state."""
    observe: str | None = None
    """The method that returns an observation afterwards, where `set` does not; needless where settling steps follow."""

    def __call__(self, moment: Moment, seed: int | None) -> Any:
        """Sets one.

        Raises:
            ValueError: there are no states, or no such method.
        """
        states = self._all(moment)
        number = seed if moment.episode is None else moment.episode
        number = int(moment.env.unwrapped.np_random.integers(len(states))) if number is None else number % len(states)
        shown = attribute_of(moment.env, self.set)(np.asarray(states[number]))
        return attribute_of(moment.env, self.observe)() if self.observe is not None else shown

    def count(self, moment: Moment) -> int:
        """How many states there are.

        Raises:
            ValueError: there are none.
        """
        return len(self._all(moment))

    def _all(self, moment: Moment) -> Sequence[Any] | np.ndarray:
        states = self.states(moment)
        if not hasattr(states, "__len__") or not len(states):
            raise ValueError(f"{self.states} holds no states: it is {type(states).__name__}.")
        return states


@dataclass(frozen=True, kw_only=True)
class Settle:
    """Steps before an episode begins, in which things come to rest; they do not count."""

    steps: int
    action: Sequence[float]
    """In the environment's own numbers: what moves nothing, as `[0, 0, 0, 0, 0, 0, -1]`."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"settle.steps={self.steps}: at least 1; without any, leave `settle` out.")
