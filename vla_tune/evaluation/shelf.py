"""Environments that are made once and used by several evaluations of one task in turn."""

from collections.abc import Callable
from typing import Any

import gymnasium

from vla_tune.evaluation.environments import MakeEnv


class Shelf:
    """Makes environments, and gives those that were closed again (a `MakeEnv`); `clear` really closes them.

    An environment may be costly to make, and every episode begins with a reset from a seed, which decides everything. In another
    process a copy of the shelf is the maker alone.
    """

    def __init__(self, make_env: MakeEnv) -> None:
        self.__wrapped__ = make_env
        self._free: list[gymnasium.Env] = []

    def __call__(self) -> gymnasium.Env:
        """One that is free, or a new one."""
        return _Lent(self._free.pop() if self._free else self.__wrapped__(), self._free.append)

    def __reduce__(self) -> tuple[Any, ...]:
        return _the_maker, (self.__wrapped__,)

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Closes those that nobody uses."""
        while self._free:
            self._free.pop().close()


class _Lent(gymnasium.Wrapper):
    """Goes back when it is closed, once."""

    def __init__(self, env: gymnasium.Env, give_back: Callable[[gymnasium.Env], None]) -> None:
        super().__init__(env)
        self._give_back: Callable[[gymnasium.Env], None] | None = give_back

    def close(self) -> None:
        if self._give_back is not None:
            self._give_back(self.env)
            self._give_back = None


def _the_maker(make_env: MakeEnv) -> MakeEnv:
    return make_env
