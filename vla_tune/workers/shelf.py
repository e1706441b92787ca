"""Environments that are made once and used by several evaluations of one task in turn."""

from collections.abc import Callable
from itertools import count
from typing import Any

import gymnasium

MakeEnv = Callable[[], gymnasium.Env]
_numbers = count()
_here: dict[int, "Shelf"] = {}
"""Of shelves that came from another process, the one that has environments in this one."""


class Shelf:
    """Makes environments, and gives those that were closed again (a `MakeEnv`); `clear` really closes them.

    An environment may be costly to make, and every episode begins with a reset from a seed, which decides everything. Sent to
    another process, it is a shelf there too: the same one each time, which is cleared when another shelf arrives.
    """

    def __init__(self, make_env: MakeEnv) -> None:
        self.__wrapped__ = make_env
        self._number = next(_numbers)
        self._free: list[gymnasium.Env] = []

    def __call__(self) -> gymnasium.Env:
        """One that is free, or a new one."""
        return _Lent(self._free.pop() if self._free else self.__wrapped__(), self._free.append)

    def __reduce__(self) -> tuple[Any, ...]:
        return _shelf_here, (self._number, self.__wrapped__)

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Closes those that nobody uses."""
        while self._free:
            self._free.pop().close()


def clear_here() -> None:
    """Closes what is kept in this process for another one, and is not used."""
    while _here:
        _here.popitem()[1].clear()


class _Lent(gymnasium.Wrapper):
    """Goes back when it is closed, once."""

    def __init__(self, env: gymnasium.Env, give_back: Callable[[gymnasium.Env], None]) -> None:
        super().__init__(env)
        self._give_back: Callable[[gymnasium.Env], None] | None = give_back

    def close(self) -> None:
        if self._give_back is not None:
            self._give_back(self.env)
            self._give_back = None


def _shelf_here(number: int, make_env: MakeEnv) -> Shelf:
    if number not in _here:
        clear_here()
        _here[number] = Shelf(make_env)
    return _here[number]
