"""Where a picture, a number, a sentence or a success is read from: each is a `Source`, an object that reads a `Moment`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vla_tune.translation.changes import Change
from vla_tune.translation.moment import Moment
from vla_tune.translation.paths import attribute_of, in_mapping, part_of


@runtime_checkable
class Source(Protocol):
    """Reads something of a moment."""

    def __call__(self, moment: Moment) -> Any:
        """What it reads.

        Raises:
            ValueError: it is not there; what is there is named beside it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FromObservation:
    """A value of the observation, at a key path with dots (`pixels.front`); an empty key is the observation itself."""

    key: str
    at: Sequence[int] | str | None = None
    """Places of a vector, in this order, or a slice as text (`0:3`)."""
    function: Change | None = None
    """What is computed of them."""
    scale: float | None = None
    """What they are multiplied by in the end, as 0.0174533 for rad from deg."""

    def __call__(self, moment: Moment) -> Any:
        """Of what is shown now."""
        where = f"the observation at {self.key!r}" if self.at is not None else "the observation"
        value = in_mapping(moment.shown, self.key, where="the observation")
        return _changed(value, self.at, self.function, self.scale, where=where)


@dataclass(frozen=True, kw_only=True)
class FromInfo:
    """A value of `info`, at a key path with dots; every step must tell it (an instruction is read after the reset alone)."""

    key: str

    def __call__(self, moment: Moment) -> Any:
        """What is told now."""
        return in_mapping(moment.info, self.key, where="info")


@dataclass(frozen=True, kw_only=True)
class FromAttribute:
    """An attribute of the environment or a wrapper of it, at a path with dots (`task.language`)."""

    path: str

    def __call__(self, moment: Moment) -> Any:
        """What it is now.

        Raises:
            ValueError: it is not there, or is a method.
        """
        value = attribute_of(moment.env, self.path)
        if callable(value):  # a picture that is a function would be drawn by it
            raise ValueError(f"the environment's {self.path!r} is a method: FromCall calls it.")
        return value


@dataclass(frozen=True, kw_only=True)
class FromCall:
    """What a method of the environment or of a wrapper of it returns."""

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, moment: Moment) -> Any:
        """Calls it.

        Raises:
            ValueError: there is no such method.
        """
        method = attribute_of(moment.env, self.path)
        if not callable(method):
            raise ValueError(f"the environment's {self.path!r} is {type(method).__name__}, no method: read it by FromAttribute.")
        return method(**self.arguments)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The picture that `render` returns, for an environment that shows none; it is made with `render_mode: rgb_array`."""

    function: Change | None = None

    def __call__(self, moment: Moment) -> np.ndarray:
        """Draws it.

        Raises:
            ValueError: nothing is drawn.
        """
        if (picture := moment.env.render()) is None:
            raise ValueError("the environment draws nothing: make it with render_mode: rgb_array among its arguments.")
        return _changed(picture, None, self.function, None, where="the picture")


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Another source's value, of which a part is taken, or something computed."""

    of: Source
    at: Sequence[int] | str | None = None
    function: Change | None = None
    scale: float | None = None

    def __call__(self, moment: Moment) -> Any:
        """As `FromObservation` does."""
        return _changed(self.of(moment), self.at, self.function, self.scale, where=str(self.of))


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """A sentence for each task, written down."""

    of: Mapping[str, str]

    def __call__(self, moment: Moment) -> str:
        """That of the task."""
        return in_mapping(self.of, moment.task, where="of the sentences")


def _changed(value: Any, at: Sequence[int] | str | None, function: Change | None, scale: float | None, *, where: str) -> Any:
    value = value if at is None else part_of(value, at, where=where)
    value = value if function is None else function(value)
    return value if scale is None else np.asarray(value) * scale
