"""Weights that are computed when they are asked for: a model of any size passes through the memory of one tensor."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor


class Weights(Mapping[str, Tensor]):
    """Tensors by name; each is made anew at every access, and none is kept."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Tensor:
        """The tensor; the caller does not write into it, since it may be mapped to a file."""
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        """Without making it."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)
