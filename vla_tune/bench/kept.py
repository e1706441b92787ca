"""A model that several cells of a benchmark share."""

from collections.abc import Callable

from vla_tune.bench.budget import release_memory
from vla_tune.models.openvla import OpenVLA


class Kept:
    """Is made when it is asked for first, and gives its memory back when it is no longer needed."""

    def __init__(self, make: Callable[[], OpenVLA]) -> None:
        self._make = make
        self._model: OpenVLA | None = None

    @property
    def made(self) -> bool:
        """Whether it is there."""
        return self._model is not None

    def get(self) -> OpenVLA:
        """The model."""
        if self._model is None:
            self._model = self._make()
        return self._model

    def forget(self) -> None:
        """Nothing keeps it from now on."""
        self._model = None
        release_memory()
